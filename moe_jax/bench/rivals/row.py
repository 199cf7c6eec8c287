"""What is known of a contestant in the end: its figures, or why there are none."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["timed", "wrong", "out of memory", "failed", "skipped"]


@dataclass(frozen=True)
class Row:
    """One contestant at one problem; everything is measured.

    Attributes:
        contestant: its name.
        case: which routing, or which batch.
        outcome: "wrong" if its results are not those in float32: then it was not timed.
        reason: of any outcome but "timed"; of that one, what a reader must know.
        seconds, spread_s: of one call, see `harness.Timing`.
        flops: of the model, in a call.
        bound_s: what the hardware's peak rates allow at best; 0 where they are not known.
        tokens: of a call.
        device: what the contestant ran on, by its own account.
        peak_bytes: of device memory during a call; None where it is not known.
        dropped, padded: rows that no expert served, and rows of nobody that were computed; None
            where the contestant does not count them.
        error: the worst relative error of a value or gradient, against float32.
    """

    contestant: str
    case: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    spread_s: float = 0.0
    flops: float = 0.0
    bound_s: float = 0.0
    tokens: int = 0
    device: str = ""
    peak_bytes: int | None = None
    dropped: int | None = None
    padded: int | None = None
    error: float | None = None

    @property
    def tflops(self) -> float:
        """Model TFLOP/s."""
        return self.flops / self.seconds / 1e12 if self.seconds else 0.0

    @property
    def of_bound(self) -> float:
        """Share of the bound; 0 where it is not known."""
        return self.bound_s / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of a call per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, what follows from it included."""
        follows = {name: getattr(self, name) for name in ("tflops", "of_bound", "tokens_per_s")}
        return asdict(self) | follows
