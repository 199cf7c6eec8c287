"""An engine without a model, for tests of what shares one. No tests here.

Every token is a function of all tokens before it, so a request that got a neighbour's token, lost
one or saw one twice goes on differently ever after.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from moe_jax.inference.contract import Prompt, Token
from moe_jax.inference.sampling_options import SamplingOptions

LETTERS = range(ord("a"), ord("z") + 1)

Next = Callable[[list[int], SamplingOptions], int]


def hashed(tokens: list[int], sampling: SamplingOptions) -> int:
    """A letter's byte that depends on every token and its place, and on the seed unless greedy."""
    state = sampling.seed if sampling.temperature else 0
    for token in tokens:
        state = (state * 1_000_003 + token + 1) % 2**31
    return LETTERS[state // 7 % len(LETTERS)]


def scripted(answer: Sequence[int], prompt: int) -> Next:
    """After a prompt of `prompt` tokens always the same answer."""
    return lambda tokens, sampling: answer[len(tokens) - prompt]


def alone(
    prompt: Sequence[int], count: int, sampling: SamplingOptions, following: Next = hashed
) -> list[int]:
    """What a request must be answered with, computed without any engine."""
    tokens = list(map(int, prompt))
    for _ in range(count):
        tokens.append(following(tokens, sampling))
    return tokens[len(prompt) :]


def logprob(token: int) -> float:
    return -token / 256


def alternatives(token: int, count: int) -> tuple[tuple[int, float], ...]:
    """The letters after a token, all of them likelier than itself."""
    return tuple((token + n, (n - count - 1) / 256) for n in range(1, count + 1))


class FakeEngine:
    """Keeps the rules of `Engine` and trips over callers that do not.

    Args:
        following: the next token of a text.
        delay: seconds that each call takes.
    """

    #: Bytes and an end of document.
    vocab_size = 257

    def __init__(
        self, slots: int = 4, context: int = 128, following: Next = hashed, delay: float = 0.0
    ):
        self.slots, self.context, self.delay = slots, context, delay
        self._following = following
        self._texts: dict[int, tuple[list[int], SamplingOptions]] = {}
        #: Names of the calls, and how many requests each was for.
        self.calls: list[tuple[str, int]] = []
        #: Raised by the next call of `step`.
        self.failure: Exception | None = None

    @property
    def idle(self) -> int:
        return self.slots - len(self._texts)

    def start(self, prompts: Sequence[Prompt]) -> list[Token]:
        if not 0 < len(prompts) <= self.idle:
            raise ValueError(f"{len(prompts)} prompts for {self.idle} idle slots")
        free = [slot for slot in range(self.slots) if slot not in self._texts]
        for slot, prompt in zip(free, prompts, strict=False):
            assert prompt.tokens.dtype == np.int32
            if not 0 < prompt.tokens.size < self.context:
                raise ValueError(f"a prompt of {prompt.tokens.size} tokens")
            self._texts[slot] = (prompt.tokens.tolist(), prompt.sampling)
        self._log("start", len(prompts))
        return [self._next(slot) for slot in free[: len(prompts)]]

    def step(self) -> list[Token]:
        assert self._texts, "a step without a running request"
        if self.failure is not None:
            raise self.failure
        self._log("step", len(self._texts))
        return [self._next(slot) for slot in self._texts]

    def release(self, slots: Iterable[int]) -> None:
        slots = list(slots)
        for slot in slots:
            del self._texts[slot]
        self.calls.append(("release", len(slots)))

    def _log(self, name: str, count: int) -> None:
        self.calls.append((name, count))
        time.sleep(self.delay)

    def _next(self, slot: int) -> Token:
        tokens, sampling = self._texts[slot]
        assert len(tokens) < self.context, f"slot {slot} is beyond its context"
        tokens.append(self._following(tokens, sampling))
        others = alternatives(tokens[-1], sampling.top_logprobs)
        return Token(slot, tokens[-1], logprob(tokens[-1]), others)
