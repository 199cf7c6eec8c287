"""Who is served by an exchange's rounds, found by walking queues one token at a time.

Knows sizes of rounds, which it is told, and the order in which tokens are served; no arrays move.
"""

import math
from dataclasses import dataclass, field

import numpy as np

#: A choice on its way: (device, token, choice).
Choice = tuple[int, int, int]


@dataclass(frozen=True)
class Sizes:
    """Of a main round and of further ones; `most`: all that could come, which never needs one."""

    main: int
    step: int
    most: int

    def further(self, longest: int, overflow: str) -> int:
        if overflow == "drop" or self.main >= self.most:
            return 0
        return max(math.ceil((longest - self.main) / self.step), 0)


@dataclass
class Served:
    """What became of the choices at one device's experts."""

    choices: set[Choice] = field(default_factory=set)
    dropped: int = 0
    rounds: int = 0

    def add(self, other: "Served") -> None:
        self.choices |= other.choices
        self.dropped += other.dropped
        self.rounds += other.rounds


def at_experts(
    arrived: list[dict[int, Choice] | None], top_k: int, experts: int, sizes: Sizes, overflow: str
) -> Served:
    """Serves tokens, in places, each with its choices {k: choice}, whose experts are told by k.

    `arrived[i]` maps (k, expert) to the choice: keys are pairs.
    """
    queue = [
        choice
        for expert in range(experts)
        for k in range(top_k)
        for token in arrived
        if token is not None and (choice := token.get((k, expert))) is not None
    ]
    rounds = sizes.further(len(queue), overflow)
    served = queue[: sizes.main + rounds * sizes.step]
    return Served(set(served), len(queue) - len(served), rounds)


def visits(experts_tk: np.ndarray, device: int, per_group: int) -> dict[int, list[dict]]:
    """Returns per group its visitors in the order of service: by choice, then by token.

    A visitor is {(k, expert in the group): (device, token, k)}.
    """
    queues: dict[int, list[tuple[int, int, dict]]] = {}
    for token, experts in enumerate(experts_tk):
        for k, expert in enumerate(experts):
            group = int(expert) // per_group
            first = next(j for j, e in enumerate(experts) if int(e) // per_group == group)
            if first == k:
                own = {
                    (j, int(e) % per_group): (device, token, j)
                    for j, e in enumerate(experts)
                    if int(e) // per_group == group
                }
                queues.setdefault(group, []).append((k, token, own))
    return {
        group: [own for _, _, own in sorted(queue, key=lambda entry: entry[:2])]
        for group, queue in queues.items()
    }
