"""Ours beside what else is installed: the same layer, training step and decode. See README.md."""
