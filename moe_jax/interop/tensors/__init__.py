"""Where each slab of our parameters lies in tensors of theirs, and how it is read."""
