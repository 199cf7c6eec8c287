"""What a `Layout` reads, whole and in part."""

import numpy as np

from moe_jax.interop.tensors.layout import Layout, Slices


def whole_slab(layout: Layout, tensor: np.ndarray) -> np.ndarray:
    """Return our slab, read from their whole tensor."""
    return layout.read(tensor, tuple(slice(0, size) for size in layout.ours_shape))


def slices_read(layout: Layout, cut: Slices) -> Slices:
    """Return what a layout asks of their tensor for a part of our slab."""

    class Recorder:
        slices: Slices = ()

        def __getitem__(self, slices: Slices) -> np.ndarray:
            self.slices = slices
            return np.zeros(layout.theirs_shape)[slices]

    source = Recorder()
    layout.read(source, cut)
    return source.slices
