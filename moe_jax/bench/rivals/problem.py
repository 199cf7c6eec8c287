"""One layer's problem, the same for all contestants: sizes, weights, tokens, and who goes where.

The routing is what we want it to be although every contestant's own router finds it: the router's
weights are the identity on the first E coordinates of a token, where each token carries the logits
that lead to its choices. They are far apart and exact in bfloat16, so that no rounding changes a
choice.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_jax.bench.grouped.shapes import SHAPES
from moe_jax.bench.rivals.hashed import Maker
from moe_jax.errors import UserError

#: Experts of a token, and whether its weights are normalised over the chosen ones alone.
_ROUTERS = {"olmoe": (8, False), "qwen3": (8, True), "paper": (2, True), "tiny": (2, True)}
#: Logits of a token's choices fall from the first to the last by this; others stay below all.
_STEP, _FIRST, _OTHERS = 0.125, 2.0, -1.0
_SKEW = 4


@dataclass(frozen=True)
class LayerProblem:
    """An MoE layer of gated experts (d x f) on `tokens`, forward and backward."""

    shape: str
    experts: int
    top_k: int
    d: int
    f: int
    tokens: int
    normalize: bool
    dtype: str

    @property
    def flops(self) -> float:
        """Model FLOPs, forward and backward: three products an expert, and the router's."""
        products = 3 * self.top_k * self.d * self.f + self.d * self.experts
        return 6.0 * self.tokens * products

    @property
    def least_bytes(self) -> float:
        """Bytes of weights read forward, read backward, and of their gradients."""
        itemsize = 2 if self.dtype == "bfloat16" else 4
        return 3.0 * itemsize * self.experts * self.d * (3 * self.f + 1)

    def weights(self, make: Maker) -> dict[str, Any]:
        """Return the experts' matrices by name: gate_edf, up_edf, down_efd."""
        e, d, f = self.experts, self.d, self.f
        return {
            "gate_edf": make("gate", (e, d, f), d**-0.5),
            "up_edf": make("up", (e, d, f), d**-0.5),
            "down_efd": make("down", (e, f, d), f**-0.5),
        }

    def router(self) -> np.ndarray:
        """Return the router's weights, float32 [d, experts]."""
        return np.eye(self.d, self.experts, dtype=np.float32)

    def logits(self, routing: str) -> np.ndarray:
        """Return what each token carries in its first coordinates, float32 [tokens, experts]."""
        chosen_tk = self.choices(routing)
        logits_te = np.full((self.tokens, self.experts), _OTHERS, np.float32)
        falling = _FIRST - _STEP * np.arange(self.top_k, dtype=np.float32)
        np.put_along_axis(logits_te, chosen_tk, falling[None], axis=1)
        return logits_te

    def choices(self, routing: str) -> np.ndarray:
        """Return each token's experts, int64 [tokens, top_k].

        Args:
            routing: "balanced": every expert serves as many rows as any other, but for a
                remainder; "random": what a fresh router does to tokens that have nothing in
                common; "skewed": random, but for one expert of 4 times the mean.
        """
        rng = np.random.default_rng(0)
        if routing == "balanced":
            turns = np.arange(self.tokens * self.top_k) % self.experts
            chosen = rng.permutation(self.experts)[turns].reshape(self.tokens, self.top_k)
            return rng.permutation(chosen)
        scores = rng.random((self.tokens, self.experts), np.float32)
        if routing == "skewed":
            hot = self.experts // 2
            scores[:, hot] = -1
            lucky = rng.permutation(self.tokens)[: self.skew * self.mean_rows]
            scores[lucky, hot] = rng.random(len(lucky)) + 1
        return np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k]

    @property
    def mean_rows(self) -> int:
        """Rows of an expert, on average."""
        return self.tokens * self.top_k // self.experts

    @property
    def skew(self) -> int:
        """How many times the mean the hot expert of "skewed" serves: no more than every token."""
        return min(_SKEW, self.experts // self.top_k)

    def why_not(self, routing: str) -> str:
        """Return why a routing makes no sense here; nothing if it does."""
        if routing != "balanced" and self.experts == self.top_k:
            return f"all {self.experts} experts serve every token: there is nothing to choose"
        return ""


def layer_problem(shape: str, tokens: int | None, dtype: str) -> LayerProblem:
    """Return the problem of a named shape.

    Args:
        shape: a name in `SHAPES`.
        tokens: how many; None is what `SHAPES` says.
        dtype: of weights, tokens and products.

    Raises:
        UserError: no tokens.
    """
    sizes, (top_k, normalize) = SHAPES[shape], _ROUTERS[shape]
    tokens = sizes.rows // top_k if tokens is None else tokens
    if tokens < 1:
        raise UserError(f"--tokens ({tokens}) must be 1 or more")
    return LayerProblem(shape, sizes.groups, top_k, sizes.d, sizes.f, tokens, normalize, dtype)
