"""Bytes of one device's memory, modelled from counts; for any mesh.

The analytic model's memory half. Counts per device are `share.py`; the assumptions made here are
listed by `analytic.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.config.schema import Activation, Config
from moe_jax.model.pattern import LayerSpec
from moe_jax.nn.activation import is_gated
from moe_jax.planner.bounds import DTYPE_BYTES
from moe_jax.planner.figures import MemoryPart
from moe_jax.planner.share import Share

#: Arrays of a layer that a pass has alive at once: activations, rows (of all streams), hidden
#: values (of one stream). Fitted to XLA's buffer assignment of the paper's model on 2 x 8 H100 with
#: 4 and 8 streams, top-1 and top-2, d_ff 8,192 and 16,384, capacity factors 1.25 and 2: within 2 %.
#: Layouts that the fit did not see (2 streams, 8 experts x 2 replicas, remat = dispatch, SwiGLU):
#: within 10 %.
_FORWARD = (3, 1, 2)
_BACKWARD = (11, 4, 4.4)
#: Arrays that a layer keeps for backward without rematerialisation, fitted likewise. XLA keeps the
#: float32 intermediate values of an activation function, other than ReLU.
_SAVED_ACTIVATIONS, _SAVED_ROWS = 22, 4
_SAVED_HIDDEN = {"relu": 1, "gelu": 6, "silu": 6, "swiglu": 6, "geglu": 6}


@dataclass(frozen=True)
class MemoryModel:
    """One device's memory at its fullest moment."""

    share: Share

    @property
    def config(self) -> Config:
        return self.share.config

    @property
    def width(self) -> int:
        return DTYPE_BYTES[self.config.precision.compute]

    def parts(self) -> tuple[MemoryPart, ...]:
        """Largest first; those that are empty are left out."""
        parts = (MemoryPart(name, round(size)) for name, size in self._sizes())
        return tuple(sorted((p for p in parts if p.bytes), key=lambda p: -p.bytes))

    def _sizes(self) -> Iterator[tuple[str, float]]:
        training = self.share.mode == "train"
        count, precision = self.share.parameter_count, self.config.precision
        parameter = DTYPE_BYTES[precision.params]
        yield "parameters", count * parameter
        if training:
            moments = {"adamw": 2, "muon": 1}[self.config.optimizer.name]
            master = 4 if precision.master == "float32" else 0
            yield "optimiser", count * (moments * DTYPE_BYTES[precision.optimizer_state] + master)
            # Accumulated ones beside those of the microbatch under way.
            copies = 1 if self.share.microbatches == 1 else 2
            yield "gradients", count * parameter * copies
            yield "saved activations", self._saved()
        if self.share.mode == "decode":
            yield (
                "cache",
                self.width
                * sum(n * self.share.cache_values(spec) for spec, n in self.share.layers.items()),
            )
        activations, rows, hidden = _BACKWARD if training else _FORWARD
        if not training:
            hidden = min(hidden, self.share.streams)
        yield "exchange buffers", rows * self._rows() if self._has_experts() else 0
        workspace = activations * self._activation() + hidden * self._hidden() / self.share.streams
        if training:
            workspace += self._weight_gradients()
        yield "workspace", workspace + self._logits() + self._gathered()

    def _saved(self) -> float:
        """What forward keeps for backward, over the layers of the stage and microbatches."""
        per_layer = {spec: self._saved_layer(spec) for spec in self.share.layers}
        kept = sum(n * per_layer[spec] for spec, n in self.share.layers.items())
        return self._in_flight() * kept

    def _saved_layer(self, spec: LayerSpec) -> float:
        remat, moe = self.config.train.remat, spec.kind == "moe"
        if remat == "full":
            return self._activation()
        if remat == "dispatch":
            return self._activation() + (self._rows() if moe else 0)
        inside = self._saved_hidden(spec) + (_SAVED_ROWS * self._rows() if moe else 0)
        return _SAVED_ACTIVATIONS * self._activation() + inside

    def _in_flight(self) -> float:
        """Microbatches whose forward is done and whose backward is not, on the first stage.

        1F1B holds one per stage; v virtual stages add (p - 1) / v (Narayanan et al., 2021,
        arxiv.org/abs/2104.04473, section 2.2).
        """
        pipe, virtual = self.config.mesh.pipe, self.share.layout.virtual_stages
        if pipe == 1:
            return 1
        extra = (pipe - 1) / virtual if virtual > 1 else 0
        return min(self.share.microbatches, pipe + extra)

    def _activation(self) -> float:
        """Hidden states of a microbatch."""
        values = self.share.tokens * self.config.model.d_model / self.share.sequence_tensor
        return values * self.width

    def _rows(self) -> float:
        """Rows of all streams, as they travel."""
        return self.share.streams * self.share.rows * self.config.model.d_model * self.width

    def _hidden(self) -> float:
        """Values inside the MLPs of the widest layer, all streams, before the activation."""
        return max(
            self._mlp(spec) * (1 + is_gated(self._function(spec))) for spec in self.share.layers
        )

    def _saved_hidden(self, spec: LayerSpec) -> float:
        return self._mlp(spec) * _SAVED_HIDDEN[self._function(spec)]

    def _mlp(self, spec: LayerSpec) -> float:
        """One array of an MLP's hidden values, all streams."""
        model, share = self.config.model, self.share
        experts, dense = share.streams * share.rows * model.moe.d_ff, share.tokens * model.mlp.d_ff
        return (experts if spec.kind == "moe" else dense) / share.tensor * self.width

    def _function(self, spec: LayerSpec) -> Activation:
        model = self.config.model
        return (model.moe if spec.kind == "moe" else model.mlp).activation

    def _logits(self) -> float:
        """One chunk's logits in float32, and their gradient in training."""
        chunk = min(self.config.train.loss_chunk, self.config.data.sequence_length)
        sequences = self.share.tokens / self.config.data.sequence_length
        copies = 2 if self.share.mode == "train" else 1
        if self.share.mode == "decode":
            chunk, sequences = 1, self.share.tokens
        return 4 * copies * sequences * chunk * self.config.model.vocab_size / self.share.tensor

    def _gathered(self) -> float:
        """Two layers' whole weights where fsdp splits them: the one at work and the next."""
        fsdp, each = self.config.mesh.fsdp, self.share.parameters
        if fsdp == 1:
            return 0.0
        return (
            2 * max(each.dense[s] + each.experts[s] for s in self.share.layers) * fsdp * self.width
        )

    def _weight_gradients(self) -> float:
        """Each stream's gradients of one layer's weights, before they are added up."""
        return self.share.streams * self._largest_layer() * self.config.mesh.fsdp * self.width

    def _largest_layer(self) -> float:
        each = self.share.parameters
        return max(each.dense[spec] + each.experts[spec] for spec in self.share.layers)

    def _has_experts(self) -> bool:
        return any(spec.kind == "moe" for spec in self.share.layers)
