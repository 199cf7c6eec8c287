"""The dense MLP: act(x w_up) w_down, or (act(x w_gate) * x w_up) w_down when gated.

The hidden size is split over the tensor axis. Also computes shared experts: n experts that every
token visits are one MLP of n times the width.
"""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from moe_jax.config.model_schema import Activation, ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.activation import activate, is_gated
from moe_jax.nn.names import MLP_HIDDEN
from moe_jax.nn.param import constant, weight
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.tensor import ONE, TensorAxis


class Mlp(nnx.Module):
    """A hidden layer of width `d_ff`, whatever of it this device holds."""

    def __init__(
        self,
        model: ModelConfig,
        precision: PrecisionConfig,
        *,
        d_ff: int,
        activation: Activation,
        bias: str,
        rngs: nnx.Rngs,
    ):
        d, f, std = model.d_model, d_ff, model.init_std
        out_std = std / (2 * model.num_layers) ** 0.5
        self.w_up_df = weight(rngs, (d, f), ("embed", "mlp"), precision, std)
        if is_gated(activation):
            self.w_gate_df = weight(rngs, (d, f), ("embed", "mlp"), precision, std)
        self.w_down_fd = weight(rngs, (f, d), ("mlp", "embed"), precision, out_std)
        if bias == "all":
            self.b_up_f = constant(0.0, (f,), ("mlp",), precision)
            if is_gated(activation):
                self.b_gate_f = constant(0.0, (f,), ("mlp",), precision)
            self.b_down_d = constant(0.0, (d,), ("norm",), precision)
        self.activation: Activation = activation
        self.bias = bias
        self.dtype = jnp.dtype(precision.compute)

    def __call__(self, x_bsd: BatchBSD, tensor: TensorAxis = ONE) -> BatchBSD:
        """Return the output for this device's part of the sequence."""
        x_bsd = tensor.enter(x_bsd)
        up = x_bsd @ self.w_up_df[...].astype(self.dtype)
        if self.bias == "all":
            up = up + self.b_up_f[...].astype(self.dtype)
        gate = None
        if is_gated(self.activation):
            gate = x_bsd @ self.w_gate_df[...].astype(self.dtype)
            if self.bias == "all":
                gate = gate + self.b_gate_f[...].astype(self.dtype)
        up, gate = checkpoint_name((up, gate), MLP_HIDDEN)
        y = activate(self.activation, up, gate) @ self.w_down_fd[...].astype(self.dtype)
        y = tensor.leave(y)
        return y + self.b_down_d[...].astype(self.dtype) if self.bias == "all" else y
