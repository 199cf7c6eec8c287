"""`moe-jax bench`: measure the hardware at hand. The verb is `verb.py`."""
