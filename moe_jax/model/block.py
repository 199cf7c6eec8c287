"""One transformer layer: x + attention(norm(x)), then x + mlp_or_moe(norm(x))."""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import LayerSpec
from moe_jax.moe.layer import MoeLayer, MoeStats
from moe_jax.nn.attention import Attention
from moe_jax.nn.latent_attention import LatentAttention
from moe_jax.nn.mlp import Mlp
from moe_jax.nn.norm import make_norm
from moe_jax.shapes import BatchBSD, MaskBS, WholeBS

#: Names the residual stream between attention and MLP, for rematerialisation policies.
RESIDUAL = "residual"


class Block(nnx.Module):
    """A pre-norm layer on one device's slice of one stream."""

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, spec: LayerSpec, *, rngs: nnx.Rngs
    ):
        self.attention_norm = make_norm(model, precision)
        attention = {"grouped": Attention, "latent": LatentAttention}[model.attention.kind]
        self.attention = attention(model, precision, spec.window, rngs=rngs)
        self.mlp_norm = make_norm(model, precision)
        if spec.kind == "moe":
            self.moe = MoeLayer(model, precision, rngs=rngs)
        else:
            self.mlp = Mlp(
                model,
                precision,
                d_ff=model.mlp.d_ff,
                activation=model.mlp.activation,
                bias=model.mlp.bias,
                rngs=rngs,
            )
        self.kind = spec.kind
        self.residual_scale = model.residual_scale

    def __call__(
        self, x_bsd: BatchBSD, positions_bs: WholeBS, segments_bs: WholeBS, parallel: Parallel
    ) -> tuple[BatchBSD, MoeStats | None]:
        """Return the layer's output, and what its experts counted.

        Args:
            x_bsd: the residual stream, this device's part of the sequence.
            positions_bs: of whole sequences, in their document.
            segments_bs: the document of each token of whole sequences.
            parallel: where this runs.
        """
        documents = segments_bs if parallel.documents else None
        attended = self.attention(
            self.attention_norm(x_bsd), positions_bs, documents, parallel.attention, parallel.tensor
        )
        return self.mix(checkpoint_name(self.add(x_bsd, attended), RESIDUAL), parallel)

    def mix(
        self, x_bsd: BatchBSD, parallel: Parallel, valid_bs: MaskBS | None = None
    ) -> tuple[BatchBSD, MoeStats | None]:
        """Return x + mlp_or_moe(norm(x)), and what the experts counted.

        Args:
            x_bsd: the residual stream after attention.
            parallel: where this runs.
            valid_bs: tokens that matter; others are spared the experts. None: all.
        """
        hidden = self.mlp_norm(x_bsd)
        if self.kind == "dense":
            return self.add(x_bsd, self.mlp(hidden, parallel.tensor)), None
        y_bsd, stats = self.moe(
            hidden, parallel.exchange, parallel.tensor, valid_bs, parallel.grouped
        )
        return self.add(x_bsd, y_bsd), stats

    def add(self, x_bsd: BatchBSD, y_bsd: BatchBSD) -> BatchBSD:
        """Return the residual stream with what half a layer adds to it."""
        if self.residual_scale == 1:
            return x_bsd + y_bsd
        return x_bsd + y_bsd * jnp.asarray(self.residual_scale, y_bsd.dtype)
