"""A plan's figures, and how they look; nothing is computed here but speed."""
