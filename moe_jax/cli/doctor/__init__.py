"""`moe-jax doctor`: what is installed, what a config amounts to. The verb is `verb.py`."""
