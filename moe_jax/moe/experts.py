"""The experts' MLPs as one batched matmul per matrix; a plain matmul for one expert per device.

Knows nothing of routing: rows come in per expert and go out per expert. Each expert's hidden size
is split over the tensor axis, whose devices bring rows of their own.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.activation import activate_experts, is_gated
from moe_jax.nn.param import constant, weight
from moe_jax.shapes import RowsLRD
from moe_jax.sharding.tensor import ONE, TensorAxis


class Experts(nnx.Module):
    """rows_lrd -> act(rows w_up) w_down per expert; gated activations have a third matrix."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        moe, std = model.moe, model.init_std
        e, d, f = moe.num_experts, model.d_model, moe.d_ff
        up_axes, down_axes = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
        out_std = std / (2 * model.num_layers) ** 0.5
        self.w_up_edf = weight(rngs, (e, d, f), up_axes, precision, std)
        if is_gated(moe.activation):
            self.w_gate_edf = weight(rngs, (e, d, f), up_axes, precision, std)
        self.w_down_efd = weight(rngs, (e, f, d), down_axes, precision, out_std)
        if moe.bias == "all":
            self.b_up_ef = constant(0.0, (e, f), ("experts", "mlp"), precision)
            if is_gated(moe.activation):
                self.b_gate_ef = constant(0.0, (e, f), ("experts", "mlp"), precision)
            self.b_down_ed = constant(0.0, (e, d), ("experts", "norm"), precision)
        self.config = moe
        self.dtype = jnp.dtype(precision.compute)

    def __call__(
        self, rows_lrd: RowsLRD, tensor: TensorAxis = ONE, *, partial: bool = False
    ) -> RowsLRD:
        """Return the experts' outputs for this device's rows.

        Args:
            rows_lrd: rows of this device's experts.
            tensor: over which each expert's hidden size is split.
            partial: rows are the same on the whole axis, and the caller sums up the outputs.
        """
        if not partial:
            rows_lrd = tensor.enter(rows_lrd)
        biased = self.config.bias == "all"
        up = self._matmul(rows_lrd, self.w_up_edf)
        if biased:
            up = up + self.b_up_ef[...].astype(self.dtype)[:, None]
        gate = None
        if is_gated(self.config.activation):
            gate = self._matmul(rows_lrd, self.w_gate_edf)
            if biased:
                gate = gate + self.b_gate_ef[...].astype(self.dtype)[:, None]
        out = self._matmul(activate_experts(self.config, up, gate), self.w_down_efd)
        if not partial:
            out = tensor.leave(out)
        if biased:
            bias = self.b_down_ed[...].astype(self.dtype)[:, None]
            out = out + (jnp.where(tensor.index() == 0, bias, 0) if partial else bias)
        return out

    def _matmul(self, rows_lri: Float[Array, "l r i"], w: nnx.Param) -> Float[Array, "l r o"]:
        return _batched_matmul(rows_lri, w[...].astype(self.dtype))


@jax.custom_vjp
def _batched_matmul(rows_lri: Array, w_lio: Array) -> Array:
    """Rows @ w per expert, with a weight gradient laid out like the weight.

    JAX's own rule yields a transposed product; XLA then keeps the stacked gradients transposed
    through the scan and copies the optimiser's float32 state into that layout and back (24 GiB
    per device for the paper's model, compiled for H100).
    """
    return jnp.einsum("lri,lio->lro", rows_lri, w_lio)


def _batched_matmul_bwd(saved: tuple[Array, Array], grad_lro: Array) -> tuple[Array, Array]:
    rows_lri, w_lio = saved
    grad_rows = jnp.einsum("lro,lio->lri", grad_lro, w_lio)
    return grad_rows, jnp.einsum("lri,lro->lio", rows_lri, grad_lro)


_batched_matmul.defvjp(lambda rows, w: (_batched_matmul(rows, w), (rows, w)), _batched_matmul_bwd)
