"""`moe-jax plan`: what a config needs on a cluster that is not there. The verb is `verb.py`."""
