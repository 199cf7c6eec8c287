"""Our code is held to strict dtype promotion in tests; libraries that we call are not."""

from contextlib import AbstractContextManager

import jax


def library_promotion() -> AbstractContextManager[object]:
    """Return a context in which libraries may mix dtypes the way they were written to."""
    return jax.numpy_dtype_promotion("standard")
