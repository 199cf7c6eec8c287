"""A whole calibration of emulated devices at tiny shapes."""

import jax
import pytest
from support.training_cases import small_config

from moe_jax.bench.operations import collectives
from moe_jax.bench.operations.calibrate import calibrate, choices, dispatch_bytes
from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.calibration import dump_calibration, parse_calibration
from moe_jax.hardware.topology import detect_topology
from moe_jax.mesh.build import build_mesh


@pytest.fixture(scope="module")
def reported():
    return []


@pytest.fixture(scope="module")
def calibration(reported):
    mesh = build_mesh(MeshConfig(expert=2), jax.devices()[:2])
    topology = detect_topology(list(mesh.devices.flat))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "_CALLS", 1)
        return calibrate(
            small_config(), mesh, topology, "cpu", repeats=2, batch_s=1e-4, report=reported.append
        )


@pytest.mark.slow
def test_it_says_what_was_measured_and_on_what(calibration):
    assert calibration.gpu == "cpu"
    assert calibration.hardware == "2 x cpu in 1 host (emulated devices share cores)"
    assert calibration.versions["jax"] == jax.__version__
    assert {m.note for m in calibration.measurements} == {"emulated devices share cores"}


def test_rates_are_all_work_over_all_time_as_often_as_a_layer_does_it(calibration):
    gathers = [m for m in calibration.measurements if m.suite == "gather"]
    assert len(gathers) == 2
    rate = sum(m.work for m in gathers) / sum(m.seconds for m in gathers)
    assert calibration.gather_bytes_per_s == pytest.approx(rate)
    weights = {"residual sum": 2, "gelu": 1}
    memory = [
        (next(w for name, w in weights.items() if m.name.startswith(name)), m)
        for m in calibration.measurements
        if m.suite == "memory"
    ]
    rate = sum(w * m.work for w, m in memory) / sum(w * m.seconds for w, m in memory)
    assert calibration.memory_bytes_per_s == pytest.approx(rate)


def test_router_and_logits_are_reported_but_part_of_no_rate(calibration):
    products = [m for m in calibration.measurements if m.suite == "matmul"]
    apart = [m for m in products if m.name.split()[0] in ("router", "logits")]
    assert len(apart) == 2
    rates = [m.rate for m in products if m not in apart]
    assert min(rates) * 0.99 < calibration.matmul_flops_per_s < max(rates) * 1.01


def test_every_result_is_reported_as_it_comes(calibration, reported):
    assert reported == [*calibration.measurements, *calibration.collectives]
    assert len(calibration.collectives) == 16


def test_it_can_be_written_and_read(calibration):
    assert parse_calibration(dump_calibration(calibration)) == calibration


def test_attention_is_what_the_model_would_choose():
    config = small_config("precision.compute=bfloat16", "data.document_mask=none")
    assert choices(config, jax.devices()[0], "cpu").attention == "xla"
    assert choices(config, jax.devices()[0], "gpu").attention == "cudnn"


def test_a_dispatch_sends_a_queue_of_rows_to_every_expert():
    config = small_config("exchange.capacity_factor=1")
    tokens = 16 * 32 // 8 // config.exchange.streams
    rows = tokens * config.model.moe.top_k
    assert dispatch_bytes(config) == rows * config.model.d_model * 4
