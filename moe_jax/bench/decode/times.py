"""What the benchmark of generation found: times by way and batch size, and rates that follow."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Way = Literal["cache", "full forward", "transformers"]


@dataclass(frozen=True)
class DecodeTime:
    """One way at one batch size; everything is measured.

    Attributes:
        batch: texts at a time.
        seconds, spread_s: of one token of every text, see `harness.Timing`.
        prompt_seconds: of reading all prompts, up to the first token; 0 where nothing is read
            once.
    """

    way: Way
    batch: int
    seconds: float
    spread_s: float
    prompt_seconds: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens of all texts together."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class DecodeTimes:
    """Every way at every batch size, on the same cores.

    Attributes:
        context: tokens of a text for which the cache has room.
        skipped: ways that were left out, and why.
    """

    model: str
    dtype: str
    mesh: str
    hardware: str
    cores: int
    date: str
    versions: dict[str, str]
    prompt_tokens: int
    new_tokens: int
    context: int
    repeats: int
    skipped: dict[str, str]
    times: tuple[DecodeTime, ...]

    def ratio(self, time: DecodeTime) -> float:
        """Return tokens per second over those with the cache at the same batch size."""
        cached = next(t for t in self.times if t.way == "cache" and t.batch == time.batch)
        return time.tokens_per_s / cached.tokens_per_s

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, what follows from it included."""
        rows = [
            asdict(t) | {"tokens_per_s": t.tokens_per_s, "ratio": self.ratio(t)} for t in self.times
        ]
        return asdict(self) | {"kind": "measured", "times": rows}
