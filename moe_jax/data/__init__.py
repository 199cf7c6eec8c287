"""Text to batches: sources, tokenizers, packing, and loaders that read ahead."""

from moe_jax.data.batch import Batch, batch_indices, batch_shape
from moe_jax.data.build import Loaders, make_loaders
from moe_jax.data.fingerprint import require_same_data
from moe_jax.data.loader import Loader
from moe_jax.data.tokenizers import Tokenizer, load_tokenizer

__all__ = [
    "Batch",
    "Loader",
    "Loaders",
    "Tokenizer",
    "batch_indices",
    "batch_shape",
    "load_tokenizer",
    "make_loaders",
    "require_same_data",
]
