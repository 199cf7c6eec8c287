"""What a contest asks of one contestant; it travels to that one's process as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

What = Literal["layer", "step", "decode"]
WHATS: tuple[What, ...] = ("layer", "step", "decode")


@dataclass(frozen=True)
class Task:
    """One contestant's part.

    Attributes:
        contestant: its name, or `ORACLE`'s.
        what: is to be computed.
        shape: a name in `grouped.shapes.SHAPES`.
        cases: routings of a layer, or batch sizes.
        dtype: of compute.
        platform: "gpu" or "cpu".
        repeats: timed batches of each case.
        tokens: of a layer; 0 is what the shape says.
        length: tokens of a sequence, of a step.
        layers: of a step's model.
        overrides: of our config.
        folder: where the float32 results are: written by the oracle, read by the others.
    """

    contestant: str
    what: What
    shape: str
    cases: tuple[str, ...]
    dtype: str
    platform: str
    repeats: int
    tokens: int
    length: int
    layers: int
    overrides: tuple[str, ...]
    folder: str

    @property
    def device(self) -> str:
        """What torch calls the platform."""
        return "cuda" if self.platform == "gpu" else "cpu"

    def dumps(self) -> str:
        """Return JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> "Task":
        """Return what `dumps` wrote."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("cases", "overrides")}
        return Task(**(values | lists))
