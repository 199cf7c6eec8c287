"""The experts' MLPs over rows sorted by expert: one grouped matmul per matrix.

Knows nothing of routing: rows come in sorted, with their counts, and go out so. With one expert on
a device it is a plain matmul. Each expert's hidden size is split over the tensor axis.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.moe.grouped import Implementation, grouped_matmul, grouped_pair
from moe_jax.nn.activation import activate_experts, is_gated
from moe_jax.nn.param import constant, weight
from moe_jax.sharding.tensor import ONE, TensorAxis

RowsRD = Float[Array, "r d"]
SizesL = Int[Array, " l"]
#: Up, and gate if the activation has one.
Hidden = tuple[Float[Array, "r f"], Float[Array, "r f"] | None]


class Experts(nnx.Module):
    """act(rows w_up) w_down per expert; gated activations have a third matrix."""

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

    def up(
        self, rows_rd: RowsRD, sizes_l: SizesL | None, grouped: Implementation = "auto"
    ) -> Hidden:
        """Return what each row is before its activation: (up, gate), gate None if there is none.

        Args:
            rows_rd: rows, sorted by expert.
            sizes_l: rows of each expert; None: all are the only expert's.
            grouped: what computes grouped matmuls.
        """
        if is_gated(self.config.activation):
            gate, up = self._pair(rows_rd, sizes_l, grouped)
        else:
            gate, up = None, self._product(rows_rd, self.w_up_edf, sizes_l, grouped)
        if self.config.bias == "all":
            up = up + self._of_rows(self.b_up_ef, up, sizes_l)
            if gate is not None:
                gate = gate + self._of_rows(self.b_gate_ef, gate, sizes_l)
        return up, gate

    def down(
        self,
        hidden: Hidden,
        sizes_l: SizesL | None,
        weights_r: Float[Array, " r"],
        grouped: Implementation = "auto",
        *,
        first: bool | Array,
    ) -> RowsRD:
        """Return weights_r * expert(row), or the part of it that this hidden size yields.

        Args:
            hidden: of `up`.
            sizes_l: as `up` takes them.
            weights_r: float32 combine weights. They scale the hidden layer, which is linear from
                there on, so that their gradient needs nothing that is not there anyway.
            grouped: as `up` takes it.
            first: whether this device adds the bias, of those that share an expert.
        """
        active_rf = activate_experts(self.config, *hidden).astype(jnp.float32)
        active_rf = (active_rf * weights_r[:, None]).astype(self.dtype)
        out_rd = self._product(active_rf, self.w_down_efd, sizes_l, grouped)
        if self.config.bias == "all":
            bias_rd = self._of_rows(self.b_down_ed, out_rd, sizes_l).astype(jnp.float32)
            bias_rd = (bias_rd * weights_r[:, None]).astype(self.dtype)
            out_rd = out_rd + jnp.where(first, bias_rd, 0)
        return out_rd

    def _pair(
        self, rows_ri: Array, sizes_l: SizesL | None, grouped: Implementation
    ) -> tuple[Array, Array]:
        gate, up = self.w_gate_edf, self.w_up_edf
        if sizes_l is not None:
            return grouped_pair(rows_ri, gate[...], up[...], sizes_l, implementation=grouped)
        return (
            self._product(rows_ri, gate, None, grouped),
            self._product(rows_ri, up, None, grouped),
        )

    def _product(
        self, rows_ri: Array, w: nnx.Param, sizes_l: SizesL | None, grouped: Implementation
    ) -> Array:
        if sizes_l is not None:
            return grouped_matmul(rows_ri, w[...], sizes_l, implementation=grouped)
        return _plain_matmul(rows_ri, w[...].astype(self.dtype))

    def _of_rows(self, bias: nnx.Param, rows_ro: Array, sizes_l: SizesL | None) -> Array:
        """Return each row's bias: a product with one-hots, whose gradient is one too."""
        bias_lo = bias[...].astype(self.dtype)
        if sizes_l is None:
            return bias_lo
        ends_l, place_r = jnp.cumsum(sizes_l), jnp.arange(rows_ro.shape[0])
        expert_r = (place_r[:, None] >= ends_l).sum(axis=1)
        one_hot_rl = expert_r[:, None] == jnp.arange(bias_lo.shape[0])
        return one_hot_rl.astype(self.dtype) @ bias_lo


@dataclass(frozen=True)
class ExpertsOn:
    """`contract.ExpertsFn` of an `Experts` module: its computation without its parameters."""

    graphdef: Any
    tensor: TensorAxis
    grouped: Implementation

    def up(self, params: nnx.State, rows_rd: RowsRD, sizes_l: SizesL | None) -> Hidden:
        """Return `Experts.up` with `params`."""
        return nnx.merge(self.graphdef, params).up(rows_rd, sizes_l, self.grouped)

    def down(
        self,
        params: nnx.State,
        hidden: Hidden,
        sizes_l: SizesL | None,
        weights_r: Float[Array, " r"],
    ) -> RowsRD:
        """Return `Experts.down` with `params`."""
        first = self.tensor.index() == 0
        experts = nnx.merge(self.graphdef, params)
        return experts.down(hidden, sizes_l, weights_r, self.grouped, first=first)


def split(
    experts: Experts, tensor: TensorAxis = ONE, grouped: Implementation = "auto"
) -> tuple[nnx.State, ExpertsOn]:
    """Return parameters and computation of a device's experts, as an exchange takes them."""
    graphdef, params = nnx.split(experts)
    return params, ExpertsOn(graphdef, tensor, grouped)


@jax.custom_vjp
def _plain_matmul(rows_ri: Array, w_lio: Array) -> Array:
    """Rows @ w of the only expert, with a weight gradient laid out like the weight.

    JAX's own rule yields a transposed product; XLA then keeps the stacked gradients transposed
    through the scan and copies the optimiser's float32 state into that layout and back (24 GiB
    per device for the paper's model, compiled for H100).
    """
    return jnp.einsum("ri,io->ro", rows_ri, w_lio[0])


def _plain_matmul_bwd(saved: tuple[Array, Array], grad_ro: Array) -> tuple[Array, Array]:
    rows_ri, w_lio = saved
    return jnp.einsum("ro,io->ri", grad_ro, w_lio[0]), jnp.einsum("ri,ro->io", rows_ri, grad_ro)[
        None
    ]


_plain_matmul.defvjp(lambda rows, w: (_plain_matmul(rows, w), (rows, w)), _plain_matmul_bwd)
