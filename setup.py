"""Packaging of raserec_jax; `pip install .`, or `pip install -e .[dev]` to work on it."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent


def read_version() -> str:
    """The version in raserec_jax/__init__.py, read as text so that nothing is imported."""
    text = (ROOT / "raserec_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


CORE = [
    "absl-py>=2.1",
    "flax>=0.12",
    "jax>=0.10",
    "jaxtyping>=0.3",
    "matplotlib>=3.8",
    "ml-collections>=1.0",
    "numpy>=2",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.28",
    "scipy>=1.11",
    # Wheels exist for Linux and Python below 3.14 only; elsewhere the exact index serves.
    'scann>=1.4; sys_platform == "linux" and python_version < "3.14"',
    "tensorboardX>=2.6.2",
    "tqdm>=4.66",
]

EXTRAS = {
    "semantic": ["openai>=1.50", "sentence-transformers>=3.3"],
    "parquet": ["pyarrow>=18"],
    # With it jax.export writes and reads its files.
    "export": ["flatbuffers>=24"],
    "tfds": [
        "array-record>=0.5.1",
        "grain>=0.2.12",
        # tensorflow-datasets imports it, and got it from older etils.
        "importlib-resources>=6",
        "tensorflow-datasets>=4.9.8",
    ],
    # Not part of "all": it takes protobuf back to 6 and pyarrow to 25.
    "beam": [
        "apache-beam>=2.77",
        "array-record>=0.5.1",
        "importlib-resources>=6",
        "tensorflow-datasets>=4.9.8",
    ],
    "dev": [
        "beartype>=0.20",
        "flatbuffers>=24",
        "hypothesis>=6.100",
        # Older ones check shapes only of packages that no conftest.py imports.
        "jaxtyping>=0.3.11",
        # Small; so the tests against a misbehaving endpoint always run.
        "openai>=1.50",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        # Another minor version formats differently, and launch/test.sh checks the format.
        "ruff~=0.17.6",
        # For the test that builds a wheel without a network.
        "setuptools>=77",
    ],
}
# Some 60 MB, without TensorFlow: the tests of records and of Grain's feed run everywhere.
EXTRAS["dev"] += EXTRAS["tfds"]
EXTRAS["all"] = sorted(
    {requirement for name, extra in EXTRAS.items() if name != "beam" for requirement in extra}
)

setup(
    name="raserec_jax",
    version=read_version(),
    description="Retrieval-augmented sequential recommendation (RaSeRec) in JAX",
    python_requires=">=3.11",
    packages=find_packages(include=["raserec_jax", "raserec_jax.*"]),
    package_data={"raserec_jax.semantic": ["templates/*.txt"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
