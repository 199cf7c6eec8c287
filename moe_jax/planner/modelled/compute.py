"""Seconds that one device computes, modelled from counts and rates; no communication.

Counts per device are `per_device.py`, rates `hardware/rates.py`; `layer_time.py` adds collectives
and what hides behind what.
"""

from dataclasses import dataclass, fields

from moe_jax.config.model_schema import ExpertActivation
from moe_jax.config.schema import Config
from moe_jax.hardware.rates import Rates
from moe_jax.model.flops import (
    attention_width,
    mean_context,
    mlp_elements,
    projection_elements,
)
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.remat.spared import OF_ROWS, spared
from moe_jax.moe.layer import shared_width
from moe_jax.nn.activation import is_gated
from moe_jax.planner.modelled.bounds import DTYPE_BYTES
from moe_jax.planner.modelled.per_device import Share

#: How often elementwise work of a forward layer goes over an array, reads and writes counted: two
#: norms, rotary q and k, two residual sums (activations); gather and combine (rows); the
#: activation function (hidden values, and once more for a gate).
ACTIVATION_PASSES, ROW_PASSES, HIDDEN_PASSES = 12, 4, 2
#: Where tokens of the tensor axis come together along the sequence, and where they part again, they
#: are copied into order: read and written.
ENTER_PASSES = 2
#: float32 logits: written, and read for their maximum and for the normaliser; in training once more
#: for their gradient, which is written in the dtype of the products.
LOGIT_PASSES, LOGIT_GRADIENT_PASSES = 3, 1
#: Backward over forward: two products per product, and as much again of elementwise work.
BACKWARD = 2


@dataclass(frozen=True)
class Seconds:
    """Where time goes, in seconds. Communication is what collectives take by themselves."""

    matmul: float = 0.0
    attention: float = 0.0
    other: float = 0.0
    #: Tokens to experts and back.
    exchange: float = 0.0
    #: Sums and gathers of activations over the tensor axis.
    tensor: float = 0.0
    #: Parameters gathered over the fsdp axis (or over expert, for `local`), or handed out to the
    #: stages of a pipeline.
    weights: float = 0.0
    #: Sums of gradients over the batch axes.
    gradients: float = 0.0
    #: Activations to the next pipeline stage, into the first one and out of the last.
    stages: float = 0.0
    #: Further rounds, or waiting for the busiest device; nothing hides behind either.
    imbalance: float = 0.0
    #: The part of all communication behind which nothing computes.
    exposed: float = 0.0

    @property
    def compute(self) -> float:
        """What the device itself does."""
        return self.matmul + self.attention + self.other

    @property
    def total(self) -> float:
        """What passes on the clock."""
        return self.compute + self.exposed + self.imbalance

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> "Seconds":
        return Seconds(*(factor * getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class LayerCompute:
    """One microbatch through one layer, on one device."""

    share: Share
    rates: Rates

    @property
    def config(self) -> Config:
        """The config that the mode's program runs with."""
        return self.share.config

    @property
    def width(self) -> int:
        """Bytes of a value."""
        return DTYPE_BYTES[self.config.precision.compute]

    def forward(self, spec: LayerSpec) -> Seconds:
        """Return a layer's work forward, without further rounds."""
        return self.dense(spec) + self.experts(spec)

    def backward(self, spec: LayerSpec) -> Seconds:
        """Return backward alone; what is computed again for it is another forward."""
        once = self.forward(spec)
        flops = BACKWARD * self._attention_flops(spec)
        return Seconds(
            matmul=BACKWARD * once.matmul,
            attention=flops / self.rates.attention_backward_flops_per_s,
            other=BACKWARD * once.other,
        )

    def spared(self, spec: LayerSpec, kept: tuple[str, ...]) -> Seconds:
        """Return what of a forward layer need not be done again, where some of it was kept.

        Args:
            spec: the kind of layer.
            kept: names of `config/remat.py`.
        """
        share, seconds = self.share, Seconds()
        for name, of in spared(self.config.model, spec).items():
            if name in kept:
                count = share.streams * share.rows if name in OF_ROWS else share.tokens
                flops = 2 * count * of.elements / share.tensor
                matmul = flops / self.rates.matmul_flops_per_s
                attention = self._attention(spec) if of.attention_width else 0.0
                seconds += Seconds(matmul=matmul, attention=attention)
        return seconds

    def dense(self, spec: LayerSpec) -> Seconds:
        """Return all but the experts: projections, attention, dense MLPs, elementwise work."""
        model, share = self.config.model, self.share
        tokens, tensor = share.tokens, share.tensor
        dense = projection_elements(model)
        hidden = 0.0
        if spec.kind == "dense":
            dense += mlp_elements(model.d_model, model.mlp.d_ff, model.mlp.activation)
            hidden = tokens * self._hidden(model.mlp.d_ff, model.mlp.activation)
        else:
            shared = shared_width(model.moe)
            dense += mlp_elements(model.d_model, shared, model.moe.activation)
            hidden = tokens * self._hidden(shared, model.moe.activation)
        router = model.moe.num_experts * model.d_model if spec.kind == "moe" else 0
        elements = dense / tensor + router / share.token_shards
        each = ACTIVATION_PASSES / share.token_shards
        if share.token_shards > 1:
            # Into and out of attention, into and out of the MLP or the experts.
            each += 4 * ENTER_PASSES
        passes = each * tokens * model.d_model
        return Seconds(
            matmul=self._matmul(2 * tokens * elements, elements),
            attention=self._attention(spec),
            other=(passes + hidden) * self.width / self.rates.memory_bytes_per_s,
        )

    def experts(self, spec: LayerSpec) -> Seconds:
        """Return the main round of all streams through this device's experts."""
        if spec.kind != "moe":
            return Seconds()
        model, moe = self.config.model, self.config.model.moe
        rows = self.share.streams * self.share.computed_rows
        each = mlp_elements(model.d_model, moe.d_ff, moe.activation) / self.share.tensor
        moved = ROW_PASSES * rows * model.d_model * self.width
        hidden = rows * self._hidden(moe.d_ff, moe.activation) * self.width
        flops, elements = 2 * rows * each, self.share.local_experts * each
        if self.share.is_grouped:
            matmul = self.rates.grouped_s(flops, elements * self.width)
        else:
            matmul = self._matmul(flops, elements)
        return Seconds(
            matmul=matmul,
            other=moved / self.rates.gather_bytes_per_s + hidden / self.rates.memory_bytes_per_s,
        )

    def _hidden(self, d_ff: int, activation: ExpertActivation) -> float:
        passes = HIDDEN_PASSES + is_gated(activation)
        return passes * d_ff / self.share.tensor

    def _matmul(self, flops: float, elements: float) -> float:
        """Return seconds of products; at least what reading the weights takes."""
        reading = elements * self.width / self.rates.memory_bytes_per_s
        return max(flops / self.rates.matmul_flops_per_s, reading)

    def _attention_flops(self, spec: LayerSpec) -> float:
        attention, length = self.config.model.attention, self.config.data.sequence_length
        width = attention_width(attention) / self.share.tensor
        context = mean_context(length, spec.window)
        if self.share.mode == "decode":
            context = min(spec.window or length, length)
        return 2 * width * context * self.share.tokens

    def _attention(self, spec: LayerSpec) -> float:
        seconds = self._attention_flops(spec) / self.rates.attention_forward_flops_per_s
        if self.share.mode != "decode":
            return seconds
        cache = self.share.cache_values(spec) * self.width
        return max(seconds, cache / self.rates.memory_bytes_per_s)

    def head(self) -> Seconds:
        """Return output projection and loss, in training with their gradients."""
        model, tokens = self.config.model, self.share.outside_tokens
        elements = model.vocab_size * model.d_model / self.share.tensor
        logits = tokens * model.vocab_size / self.share.tensor
        matmul = self._matmul(2 * tokens * elements, elements)
        passes, size, repeats = LOGIT_PASSES, 0, 1
        if self.share.mode == "train":
            passes, size, repeats = passes + LOGIT_GRADIENT_PASSES, self.width, 1 + BACKWARD
        other = (4 * passes + size) * logits / self.rates.memory_bytes_per_s
        return Seconds(matmul=matmul * repeats, other=other)

    def optimizer(self) -> float:
        """Return seconds to read gradients, moments and parameters and to write the latter two.

        Of the part of the optimiser's state that lives here.
        """
        precision, name = self.config.precision, self.config.optimizer.name
        moments = {"adamw": 2, "muon": 1}[name]
        parameter = DTYPE_BYTES[precision.params]
        per_element = 2 * parameter + 2 * moments * DTYPE_BYTES[precision.optimizer_state]
        per_element += 2 * 4 if precision.master == "float32" else parameter
        count = self.share.count(self.share.optimizer_state)
        return count * per_element / self.rates.memory_bytes_per_s
