"""Attention checked against float32 and timed. The command is `moe-jax bench attention`."""
