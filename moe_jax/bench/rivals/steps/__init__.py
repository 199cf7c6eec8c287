"""The training step of each contestant; imported in its own process."""
