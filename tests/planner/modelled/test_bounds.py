"""The least bytes that must cross, against a simulation of uniform routing and by hand."""

import numpy as np
import pytest
from support.places import CONFIGS

from moe_jax.config import load_config, override
from moe_jax.hardware.topology import named_topology
from moe_jax.planner.modelled.bounds import copies_per_token, exchange_bound, inter_host_lower_bound


def simulated(experts, top_k, hosts, devices_per_host, tokens=40_000):
    """Copies of tokens that start on device 0, counted one by one."""
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k]
    device = chosen // (experts // (hosts * devices_per_host))
    between = inside = 0
    for row in device:
        touched = set(row.tolist())
        away = {d // devices_per_host for d in touched} - {0}
        between += len(away)
        # Each other host receives one copy over the network; all further devices one by NVLink.
        inside += len(touched - {0}) - len(away)
    return between / tokens, inside / tokens


@pytest.mark.parametrize(
    ("experts", "top_k", "hosts", "per_host"),
    [(16, 2, 2, 8), (64, 6, 4, 4), (16, 1, 2, 2), (8, 8, 2, 4), (32, 2, 1, 8)],
)
def test_closed_form_agrees_with_counting(experts, top_k, hosts, per_host):
    copies = copies_per_token(experts, top_k, hosts, per_host)
    counted = simulated(experts, top_k, hosts, per_host)
    assert (copies.between_hosts, copies.inside_hosts) == pytest.approx(counted, abs=0.015)


def test_top_2_on_2_hosts_crosses_0_767_times():
    assert copies_per_token(16, 2, 2, 8).between_hosts == pytest.approx(0.767, abs=5e-4)


def test_experts_that_do_not_spread_evenly_are_refused():
    with pytest.raises(ValueError, match="12 experts do not spread evenly over 2 x 4"):
        copies_per_token(12, 2, 2, 4)


def paper(*changes):
    return override(load_config(CONFIGS / "paper_ep16.toml"), changes)


def test_paper_ep16_by_hand():
    # 8 sequences of 10,000 tokens of 4,096 bfloat16 per device, 16 layers, there and back.
    one_trip = 16 * 80_000 * 4096 * 2 * (1 - 28 / 120)
    topology = named_topology("h100", 2, 8)
    assert inter_host_lower_bound(paper(), topology, "forward") == pytest.approx(2 * one_trip)
    assert inter_host_lower_bound(paper(), topology) == pytest.approx(4 * one_trip)


def test_decode_counts_one_token_per_sequence():
    topology = named_topology("h100", 2, 8)
    forward, decode = (exchange_bound(paper(), topology, m) for m in ("forward", "decode"))
    assert forward.inter_host_bytes == pytest.approx(10_000 * decode.inter_host_bytes)


def test_experts_of_one_host_send_nothing_between_hosts():
    config = paper("mesh.data=2", "mesh.expert=8")
    bound = exchange_bound(config, named_topology("h100", 2, 8))
    assert bound.inter_host_bytes == 0
    assert bound.intra_host_bytes > 0


def test_tensor_and_pipe_axes_share_the_load():
    topology = named_topology("h100", 4, 8)
    whole = exchange_bound(paper("mesh.data=2"), topology).inter_host_bytes
    pipe = exchange_bound(paper("mesh.pipe=2"), topology).inter_host_bytes
    assert pipe == pytest.approx(whole)  # twice the tokens, half the layers
