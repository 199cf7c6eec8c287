"""Seconds of a step outside its layers, modelled.

A pipeline's sends, the ends of the model, and what parameters and gradients travel once per step.
The layers are `layer_time.py`; `estimate.py` puts steps together.
"""

from dataclasses import dataclass

from moe_jax.axes import DATA, EXPERT, PIPE, TENSOR
from moe_jax.hardware.network import collective_time
from moe_jax.planner.modelled.bounds import DTYPE_BYTES
from moe_jax.planner.modelled.compute import Seconds
from moe_jax.planner.modelled.layer_time import LayerModel
from moe_jax.planner.modelled.per_device import Share


@dataclass(frozen=True)
class OutsideModel:
    """What surrounds the layers, on one device. Nothing of its communication hides."""

    layers: LayerModel

    @property
    def share(self) -> Share:
        """What this device works on."""
        return self.layers.share

    @property
    def directions(self) -> int:
        """Forward, and backward in training."""
        return 2 if self.share.mode == "train" else 1

    def send(self) -> float:
        """Return seconds of one microbatch's activations to the next stage, one way."""
        size = self._activations(self.share.tokens)
        return self._time("collective-permute", size, PIPE)

    def once(self) -> Seconds:
        """Return seconds per pass through the model: its ends, and those of a pipeline."""
        share, seconds = self.share, self.layers.compute.head()
        if share.schedule.stages > 1:
            rows = self._time("all-gather", self._activations(share.stage_tokens), PIPE)
            moved = 2 * self.directions * rows
            seconds += Seconds(stages=moved, exposed=moved)
            handed = self.directions * self._hand_out()
            seconds += Seconds(weights=handed, exposed=handed)
        size = share.outside_tokens * self._row
        # The embedding adds up, the head brings together: a reduce-scatter and an all-gather, of
        # which backward does the transposes.
        tensor = self.directions * self._time("all-reduce", size, TENSOR)
        return seconds + Seconds(tensor=tensor, exposed=tensor)

    def update(self) -> Seconds:
        """Return seconds per training step.

        Gradients that nothing is left to hide, and parameters coming back from those who updated
        them.
        """
        layers, share = self.layers, self.share
        sums = layers.end_sums()
        if share.schedule.stages > 1:
            each = sum(n * layers.layer_sums(spec) for spec, n in share.layers.items())
            sums += share.accumulation * each
        back = self._returned()
        return Seconds(gradients=sums, weights=back, exposed=sums + back)

    def _hand_out(self) -> float:
        """Return seconds for a stage's layers to travel, where they are not stored there."""
        share = self.share
        if not share.hands_out:
            return 0.0
        each = share.parameters
        count = sum(n * (each.dense[s] + each.experts[s]) for s, n in share.layers.items())
        return self._time("all-to-all", count * self._parameter, PIPE)

    def _returned(self) -> float:
        """Return seconds of all-gathers of parameters that their updaters share out (ZeRO)."""
        share = self.share
        kept, whole = share.optimizer_state, share.parameters
        seconds = 0.0
        if kept.ends < whole.ends:
            seconds += self._time("all-gather", whole.ends * self._parameter, PIPE, DATA, EXPERT)
        for spec, count in share.layers.items():
            if kept.dense[spec] < whole.dense[spec]:
                size = count * whole.dense[spec] * self._parameter
                seconds += self._time("all-gather", size, DATA, EXPERT)
            if kept.experts[spec] < whole.experts[spec]:
                size = count * whole.experts[spec] * self._parameter
                seconds += self._time("all-gather", size, DATA)
        return seconds

    @property
    def _parameter(self) -> int:
        return DTYPE_BYTES[self.share.config.precision.params]

    @property
    def _row(self) -> int:
        return self.share.config.model.d_model * self.layers.width

    def _activations(self, tokens: float) -> float:
        return tokens / self.share.token_shards * self._row

    def _time(self, kind: str, size: float, *axes: str) -> float:
        return collective_time(kind, size, self.layers.group(*axes), self.layers.topology)
