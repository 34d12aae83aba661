"""Tells what raserec_jax finds here: versions, devices, flags, known miscompiles, and what would be slow or wrong.

python launch/doctor.py

Ends with 0 if numbers can be trusted, with 2 if a known miscompile is in force.
"""

from raserec_jax import cli


def main(argv: list[str]) -> int:
    """Doctor."""
    del argv
    from raserec_jax.doctor import diagnose

    found = diagnose()
    print(found)
    return 0 if found.sound else 2


if __name__ == "__main__":
    cli.run(main)
