"""`moe-jax inspect`: what a checkpoint holds. The verb is `verb.py`."""
