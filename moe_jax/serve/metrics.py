"""What the server counts and times, for Prometheus. Who counts: `engine_thread.py`, `app.py`."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Outcome = Literal[
    "completed", "disconnected", "invalid", "unauthorized", "overflow", "closing", "failed"
]
#: Seconds; each twice the one before, from a token on a fast device to a long wait in the queue.
BUCKETS = tuple(2.0**power for power in range(-10, 8))


class Metrics:
    """One server's counters, apart from any other's in the same process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "moe_jax_requests",
            "HTTP requests for text, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were accepted")
        self.generated_tokens = self._counter("generated_tokens", "Tokens that were generated")
        self.first_token = self._histogram(
            "time_to_first_token", "From a request's arrival to a text's first token"
        )
        self.next_token = self._histogram("time_per_token", "From one token of a text to the next")

    def count(self, outcome: Outcome) -> None:
        """Count a request that has its answer."""
        self.requests.labels(outcome).inc()

    def gauge(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """Add a figure that is read whenever somebody asks.

        Args:
            name: without the prefix `moe_jax_`.
            help_: what it is, for those who read it.
            read: returns it; called from any thread.
        """
        Gauge(f"moe_jax_{name}", help_, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_: str) -> Counter:
        return Counter(f"moe_jax_{name}", help_, registry=self.registry)

    def _histogram(self, name: str, help_: str) -> Histogram:
        return Histogram(f"moe_jax_{name}_seconds", help_, buckets=BUCKETS, registry=self.registry)
