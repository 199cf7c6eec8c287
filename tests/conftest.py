"""Every test runs on 8 emulated CPU devices, with strict dtype promotion, warnings as errors, and
the shapes and dtypes of arrays checked at every call of the packages that `array_checks` names."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import array_checks
import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Before any test imports these packages.
install_import_hook(array_checks.CHECKED, "array_checks.check")
