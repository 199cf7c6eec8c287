"""`python -m moe_jax` is `moe-jax`."""

import sys

from moe_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
