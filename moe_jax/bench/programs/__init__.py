"""Whole programs: the training step, the forward pass, layouts side by side."""
