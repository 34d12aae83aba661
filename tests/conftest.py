"""Settings of all tests: a CPU that shows eight devices, JAX at its strictest, programs compiled once.

What needs several devices is tested on any machine, without an accelerator (JAX_PLATFORMS
overrides that). All of this must happen before JAX starts its backend; importing raserec_jax sets
the XLA flag that keeps jaxlib 0.10.2 right.
"""

import gc
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax

import raserec_jax  # noqa: F401 - for its XLA flag

# Eight devices on two cores cost single-device tests nothing that we could measure.
jax.config.update("jax_num_cpu_devices", 8)
# Runs use one of them unless a test makes a mesh.
jax.config.update("jax_default_device", os.environ["JAX_PLATFORMS"].split(",")[0])
# XLA's compiler meets the same small programs again and again, and keeping them saves a quarter of the time: the first
# process makes a folder for them; its workers, and the commands that tests start, inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _PROGRAMS = tempfile.TemporaryDirectory(prefix="raserec-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
# JAX keeps what it has traced; looking through all of it for garbage took 7% of the time.
gc.set_threshold(20_000, 20, 20)
# [batch] + [batch, dim] is a mistake of ours far more often than a wish.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example compiles, so time per example means nothing; the same examples on every run.
hypothesis.settings.register_profile("raserec", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("raserec")


def pytest_make_parametrize_id(val, argname):
    """Names bytes after their argument: gzip's hold the time, and xdist wants equal names everywhere."""
    return argname if isinstance(val, bytes) else None
