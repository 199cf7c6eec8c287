"""Figures of one server, as Prometheus reads them."""

import re

from moe_jax.serve.metrics import BUCKETS, Metrics


def figures(metrics):
    text = metrics.text().decode()
    return {name: float(value) for name, value in re.findall(r"^(moe_jax_\S+) (\S+)$", text, re.M)}


def test_requests_are_counted_by_outcome():
    metrics = Metrics()
    for outcome in ("completed", "overflow", "completed"):
        metrics.count(outcome)
    found = figures(metrics)
    assert found['moe_jax_requests_total{outcome="completed"}'] == 2
    assert found['moe_jax_requests_total{outcome="overflow"}'] == 1


def test_two_servers_of_a_process_count_apart():
    one, other = Metrics(), Metrics()
    one.prompt_tokens.inc(7)
    assert figures(one)["moe_jax_prompt_tokens_total"] == 7
    assert figures(other)["moe_jax_prompt_tokens_total"] == 0


def test_a_gauge_is_read_whenever_somebody_asks():
    metrics, waiting = Metrics(), []
    metrics.gauge("queue_length", "Texts that wait", lambda: len(waiting))
    assert figures(metrics)["moe_jax_queue_length"] == 0
    waiting.append("text")
    assert figures(metrics)["moe_jax_queue_length"] == 1


def test_times_fall_into_buckets_from_a_millisecond_to_two_minutes():
    assert (BUCKETS[0], BUCKETS[-1]) == (1 / 1024, 128)
    metrics = Metrics()
    for seconds in (0.0005, 0.3, 500):
        metrics.first_token.observe(seconds)
    found = figures(metrics)
    name = "moe_jax_time_to_first_token_seconds"
    assert found[f"{name}_count"] == 3
    assert found[f'{name}_bucket{{le="0.0009765625"}}'] == 1
    assert found[f'{name}_bucket{{le="0.5"}}'] == 2
    assert found[f'{name}_bucket{{le="128.0"}}'] == 2
    assert found[f'{name}_bucket{{le="+Inf"}}'] == 3
