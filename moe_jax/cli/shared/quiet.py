"""Importing JAX without what its C++ side says about machines that have no GPU driver.

With CUDA's plugin installed (the plan extra), `import jax` writes to the process's stderr that
there is no driver, before any log level applies. All else that is said meanwhile is passed on.
"""

import os
import re
import sys
import tempfile

_NOISE = re.compile(rb"Could not find cuda drivers|before absl::InitializeLog\(\) is called")


def import_jax() -> None:
    """Import JAX if nobody has yet."""
    if "jax" in sys.modules:
        return
    # Of what comes later, errors only.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import jax  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            os.write(2, b"".join(line for line in said if not _NOISE.search(line)))
