"""Every test runs on 8 emulated CPU devices, with strict dtype promotion, warnings as errors, and
the shapes and dtypes of arrays checked at every call of the packages that `array_checks` names."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook
from support import array_checks

from moe_jax.mesh.xla_options import known, xla_flags

# Programs of tests run for less time than it takes to compile them well. What is compiled for GPUs
# that are not there is compiled by processes that do not see this.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# XLA reads it when JAX starts a backend. The processes of pytest-xdist inherit it.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = xla_flags(known(QUICK))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Before any test imports these packages.
install_import_hook(array_checks.CHECKED, "support.array_checks.check")
