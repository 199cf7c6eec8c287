"""`transport = "auto"`: the transport that sends the fewest bytes per device and stream.

`local` is considered only where one device holds all experts: elsewhere it would gather every
expert's weights onto every device, which is the user's decision to make.
"""

import logging

from moe_jax.config.schema import Config
from moe_jax.moe.exchange.contract import TransportName, capacity

logger = logging.getLogger(__name__)

_CHOICES: tuple[TransportName, ...] = ("all_to_all", "all_gather")


def rows_sent(transport: TransportName, tokens: int, config: Config, devices: int) -> int:
    """Return rows of d_model that one device sends in one exchange, both ways together.

    all_to_all: capacity rows to each expert elsewhere, and as many back. all_gather: its tokens
    to all others (the ring passes on devices - 1 blocks), and the partial sums back likewise.
    """
    moe = config.model.moe
    others = devices - 1
    if transport == "all_to_all":
        factor = config.exchange.capacity_factor
        rows = capacity(tokens, moe.top_k, moe.num_experts, factor, devices)
        return 2 * others * (moe.num_experts // devices) * rows
    if transport == "all_gather":
        return 2 * others * tokens
    return 0


def cheapest_transport(config: Config, devices: int, tokens: int) -> TransportName:
    """Return the config's transport, with "auto" resolved for `tokens` per device and stream."""
    wanted = config.exchange.transport
    if wanted != "auto":
        return wanted
    if devices == 1:
        return "local"
    return min(_CHOICES, key=lambda name: rows_sent(name, tokens, config, devices))


def choose_transport(config: Config, devices: int, tokens: int) -> TransportName:
    """Return `cheapest_transport`, and logs why where there was a choice."""
    best = cheapest_transport(config, devices, tokens)
    if config.exchange.transport == "auto" and devices > 1:
        rows = {name: rows_sent(name, tokens, config, devices) for name in _CHOICES}
        logger.info(
            "exchange.transport=auto: %s (rows sent per device and stream: %s)",
            best,
            ", ".join(f"{name} {count}" for name, count in rows.items()),
        )
    return best
