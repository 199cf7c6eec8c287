"""Bytes of one device's memory, modelled from counts; for any mesh.

The analytic model's memory half. Counts per device are `per_device.py`; the assumptions made here
are listed by `estimate.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.config.model_schema import ExpertActivation
from moe_jax.config.remat import EVERYTHING
from moe_jax.config.schema import Config
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.remat.kept import decided_names
from moe_jax.model.remat.spared import spared
from moe_jax.nn.activation import is_gated
from moe_jax.planner.modelled.bounds import DTYPE_BYTES
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.report.figures import MemoryPart

#: Arrays of a layer that a pass has alive at once: activations, rows (of all streams), hidden
#: values (of one stream). Fitted to XLA's buffer assignment of the paper's model on 2 x 8 H100 with
#: 4 and 8 streams, top-1 and top-2, d_ff 8,192 and 16,384, capacity factors 1.25 and 2: within 2 %.
#: Layouts that the fit did not see (2 streams, 8 experts x 2 replicas, remat = dispatch, SwiGLU):
#: within 10 %.
_FORWARD = (3, 1, 2)
_BACKWARD = (11, 4, 4.4)
#: Copies of a pipeline's slots; fitted to the two baselines of the paper within 15 %.
_SLOTS = {"forward": 2, "train": 6}
#: Copies of a layer's weights where FSDP gathers them; fitted to three layouts of the paper's model
#: (fsdp = 2 with 8 experts, dense parameters over both; fsdp = 16 and weights of all experts
#: gathered) within 10 %.
_GATHERED = {"forward": 2, "train": 6}
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
        """The config that the mode's program runs with."""
        return self.share.config

    @property
    def width(self) -> int:
        """Bytes of a value."""
        return DTYPE_BYTES[self.config.precision.compute]

    def parts(self) -> tuple[MemoryPart, ...]:
        """Return what takes memory, largest first, without what takes none."""
        parts = (MemoryPart(name, round(size)) for name, size in self._sizes())
        return tuple(sorted((p for p in parts if p.bytes), key=lambda p: -p.bytes))

    def _sizes(self) -> Iterator[tuple[str, float]]:
        training = self.share.mode == "train"
        share, precision = self.share, self.config.precision
        parameters = share.count(share.parameters) * DTYPE_BYTES[precision.params]
        yield "parameters", parameters
        if training:
            moments = {"adamw": 2, "muon": 1}[self.config.optimizer.name]
            master = 4 if precision.master == "float32" else 0
            each = moments * DTYPE_BYTES[precision.optimizer_state] + master
            yield "optimiser", share.count(share.optimizer_state) * each
            yield "gradients", parameters * self._gradients()
            yield "saved activations", self._saved()
        if self.share.mode == "decode":
            yield (
                "cache",
                self.width
                * sum(n * self.share.cache_values(spec) for spec, n in self.share.layers.items()),
            )
        activations, rows, hidden = _BACKWARD if training else _FORWARD
        if not training:
            hidden = min(hidden, share.streams)
        if share.transport.gathers_experts:
            # Nothing is under way: the rows of one stream exist at a time, here and at the experts.
            rows *= (1 if training else 2) / share.streams
        yield "exchange buffers", rows * self._rows() if self._has_experts() else 0
        workspace = activations * self._activation() + hidden * self._hidden() / share.streams
        if training:
            workspace += self._weight_gradients()
        workspace += self._joined() + self._pipeline()
        yield "workspace", workspace + self._logits() + self._gathered()

    def _gradients(self) -> float:
        """Return the bytes of all copies of gradients.

        Those of the pass under way, the float32 sum over passes; in a pipeline the sum over ticks
        beside those of one, and the layers' on their way to where they live.
        """
        schedule, copies = self.share.schedule, 1.0
        if self.share.accumulation > 1:
            copies += 4 / DTYPE_BYTES[self.config.precision.params]
        if schedule.stages > 1:
            copies += 1 / schedule.rounds + self.share.hands_out
        return copies

    def _pipeline(self) -> float:
        """Return the bytes of a pipeline's slots, and of the layers that it hands out.

        Slots hold all microbatches as they enter and as they leave.
        """
        share = self.share
        if share.schedule.stages == 1:
            return 0.0
        slots = _SLOTS["train" if share.mode == "train" else "forward"]
        size = slots * share.schedule.microbatches * self._activation()
        parameter = DTYPE_BYTES[self.config.precision.params]
        return size + share.hands_out * share.count(share.parameters) * parameter

    def _joined(self) -> float:
        """Return a stream's tokens of the whole tensor axis, where each device holds a part."""
        if self.share.token_shards == 1:
            return 0.0
        passes = 10 if self.share.mode == "train" else 1.5
        each = self.share.stream_tokens * self.config.model.d_model * self.width
        return passes * each

    def _saved(self) -> float:
        """Return what forward keeps for backward: of a pipeline at every tick, else once."""
        schedule = self.share.schedule
        if schedule.stages > 1:
            fill = schedule.ticks / (schedule.microbatches * schedule.rounds)
        else:
            fill = 1
        return fill * sum(n * self._saved_layer(spec) for spec, n in self.share.runs.items())

    def _saved_layer(self, spec: LayerSpec) -> float:
        remat, moe = self.config.train.remat, spec.kind == "moe"
        if remat != EVERYTHING:
            return self._activation() + self._named(spec, decided_names(remat))
        inside = self._saved_hidden(spec) + (_SAVED_ROWS * self._rows() if moe else 0)
        return _SAVED_ACTIVATIONS * self._activation() + inside

    def _named(self, spec: LayerSpec, names: tuple[str, ...]) -> float:
        """Return what is kept by name: rows as they travel, other values as they are computed."""
        share, found = self.share, spared(self.config.model, spec)
        parts = dict.fromkeys(found, share.tensor) | {"residual": share.token_shards}
        counts = dict.fromkeys(found, share.tokens) | {"experts": share.streams * share.rows}
        kept = {n: counts[n] * of.values / parts[n] * self.width for n, of in found.items()}
        if "dispatch" in kept:
            kept["dispatch"] = self._rows()
        return sum(size for name, size in kept.items() if name in names)

    def _activation(self) -> float:
        """Return the hidden states of a microbatch."""
        values = self.share.tokens * self.config.model.d_model / self.share.token_shards
        return values * self.width

    def _rows(self) -> float:
        """Return the places for tokens of all streams, as they travel."""
        return self.share.streams * self.share.slots * self.config.model.d_model * self.width

    def _hidden(self) -> float:
        """Return the values inside the MLPs of the widest layer, all streams, before activation."""
        return max(
            self._mlp(spec) * (1 + is_gated(self._function(spec))) for spec in self.share.layers
        )

    def _saved_hidden(self, spec: LayerSpec) -> float:
        return self._mlp(spec) * _SAVED_HIDDEN[self._function(spec)]

    def _mlp(self, spec: LayerSpec) -> float:
        """Return one array of an MLP's hidden values, all streams."""
        model, share = self.config.model, self.share
        experts, dense = share.streams * share.rows * model.moe.d_ff, share.tokens * model.mlp.d_ff
        return (experts if spec.kind == "moe" else dense) / share.tensor * self.width

    def _function(self, spec: LayerSpec) -> ExpertActivation:
        model = self.config.model
        return (model.moe if spec.kind == "moe" else model.mlp).activation

    def _logits(self) -> float:
        """Return one chunk's logits in float32, and in training the gradient that products read."""
        chunk = min(self.config.train.loss_chunk, self.config.data.sequence_length)
        sequences = self.share.outside_tokens / self.config.data.sequence_length
        size = 4 + self.width if self.share.mode == "train" else 4
        if self.share.mode == "decode":
            chunk, sequences = 1, self.share.outside_tokens
        return size * sequences * chunk * self.config.model.vocab_size / self.share.tensor

    def _gathered(self) -> float:
        """Return whole weights, and gradients, of layers at work and of those gathered ahead."""
        if self._whole_layer() == self._largest_layer():
            return 0.0
        copies = _GATHERED["train" if self.share.mode == "train" else "forward"]
        return copies * self._whole_layer() * self.width + self._laid_out_to_gather()

    def _laid_out_to_gather(self) -> float:
        """Return the bytes of a second copy of all layers that are gathered.

        XLA gathers along the outermost dimension, and lays the stacked parameters out for that
        before its loop over layers.
        """
        share, each = self.share, self.share.parameters
        gathers_experts = share.config.mesh.fsdp > 1 or share.transport.gathers_experts
        count = sum(
            n * (each.dense[s] * (share.dense_parts > 1) + each.experts[s] * gathers_experts)
            for s, n in share.layers.items()
        )
        return count * DTYPE_BYTES[self.config.precision.params]

    def _weight_gradients(self) -> float:
        """Return each stream's gradients of one layer's weights, before they are added up."""
        return self.share.streams * self._whole_layer() * self.width

    def _whole_layer(self) -> float:
        """Return the elements of a layer's weights as they are used."""
        share, mesh = self.share, self.config.mesh
        each = share.parameters
        experts = mesh.fsdp * (mesh.expert if share.transport.gathers_experts else 1)
        return max(
            each.dense[s] * share.dense_parts + each.experts[s] * experts for s in share.layers
        )

    def _largest_layer(self) -> float:
        each = self.share.parameters
        return max(each.dense[spec] + each.experts[spec] for spec in self.share.layers)

    def _has_experts(self) -> bool:
        return any(spec.kind == "moe" for spec in self.share.layers)
