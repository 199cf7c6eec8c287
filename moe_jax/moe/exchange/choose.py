"""`transport = "auto"`: the transport that sends the fewest bytes per device and stream.

Those that gather experts are considered only where one device holds all of them: elsewhere that
would be every expert's weights on every device, which is the user's decision to make.
"""

import logging

from moe_jax.config.schema import Config, ExchangeConfig, TransportName
from moe_jax.errors import UserError
from moe_jax.moe.exchange import TRANSPORTS
from moe_jax.moe.exchange.contract import ExchangeSpec, Transport
from moe_jax.moe.exchange.local import Local

logger = logging.getLogger(__name__)


def make_spec(
    config: ExchangeConfig,
    transport: TransportName,
    num_experts: int,
    devices: int,
    hosts: tuple[int, ...] = (),
) -> ExchangeSpec:
    """Return the spec of a validated config on an expert axis.

    Args:
        config: capacity factor, overflow and the size of further rounds.
        transport: which to use; one device has nobody to exchange with, whatever is asked for:
            collectives would be copies.
        num_experts: a multiple of `devices`.
        devices: size of the expert axis.
        hosts: of `ExchangeSpec`.

    Raises:
        UserError: experts do not spread evenly.
    """
    if num_experts % devices:
        raise UserError(
            f"num_experts ({num_experts}) must be a multiple of the expert axis ({devices})"
        )
    return _spec(config, TRANSPORTS[transport], num_experts, devices, hosts)


def cheapest_spec(
    config: Config, devices: int, tokens: int, hosts: tuple[int, ...] = ()
) -> ExchangeSpec:
    """Return the config's exchange, with "auto" resolved.

    Args:
        config: need not be consistent: layouts that are refused are counted too.
        devices: size of the expert axis.
        tokens: that a device routes at a time: of one stream.
        hosts: of `ExchangeSpec`.
    """
    specs = _candidates(config, devices, hosts)
    return min(specs, key=lambda spec: _rows_sent(spec, tokens, config))


def choose_spec(
    config: Config, devices: int, tokens: int, hosts: tuple[int, ...] = ()
) -> ExchangeSpec:
    """Return `cheapest_spec` of a checked config, and log why where there was a choice.

    Args:
        config: whose exchange it is.
        devices: size of the expert axis.
        tokens: that a device routes at a time: of one stream.
        hosts: of `ExchangeSpec`.

    Raises:
        UserError: experts do not spread evenly.
    """
    best = cheapest_spec(config, devices, tokens, hosts)
    if config.exchange.transport == "auto" and devices > 1:
        logger.info(
            "exchange.transport=auto: %s (rows sent per device and stream: %s)",
            best.transport.name,
            ", ".join(
                f"{spec.transport.name} {_rows_sent(spec, tokens, config)}"
                for spec in _candidates(config, devices, hosts)
            ),
        )
    num_experts = config.model.moe.num_experts
    return make_spec(config.exchange, best.transport.name, num_experts, devices, hosts)


def _candidates(config: Config, devices: int, hosts: tuple[int, ...]) -> list[ExchangeSpec]:
    name = config.exchange.transport
    if name == "auto":
        choices = [t for t in TRANSPORTS.values() if not t.gathers_experts]
    else:
        choices = [TRANSPORTS[name]]
    num_experts = config.model.moe.num_experts
    return [_spec(config.exchange, t, num_experts, devices, hosts) for t in choices]


def _spec(
    config: ExchangeConfig,
    transport: Transport,
    num_experts: int,
    devices: int,
    hosts: tuple[int, ...],
) -> ExchangeSpec:
    if devices == 1:
        transport = Local()
    return ExchangeSpec(
        transport,
        num_experts,
        devices,
        config.capacity_factor,
        config.overflow,
        config.round_fraction,
        hosts,
    )


def _rows_sent(spec: ExchangeSpec, tokens: int, config: Config) -> int:
    return spec.transport.rows_sent(spec, tokens, config.model.moe.top_k)
