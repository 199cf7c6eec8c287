"""Measures the hardware at hand, as a `Calibration`. Printing it is `cli/bench/verb.py`."""

import datetime
from collections.abc import Callable, Iterable
from importlib.metadata import version

import jax
from jax.sharding import Mesh

from moe_jax.bench.harness import measure
from moe_jax.bench.machine import EMULATED, PACKAGES, describe_hardware, gpu_name
from moe_jax.bench.operations.collectives import collective_times, sizes_bytes
from moe_jax.bench.operations.sizes import sizes_of
from moe_jax.bench.operations.specs import Spec, layer_specs
from moe_jax.config.schema import Config, MeshConfig
from moe_jax.hardware.calibration import Calibration, CollectiveTime, Measurement, Suite
from moe_jax.hardware.topology import Device, Topology
from moe_jax.mesh.build import build_mesh
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.parallel import Parallel, resolve_parallel
from moe_jax.planner.modelled.per_device import Share

Report = Callable[[Measurement | CollectiveTime], None]


def calibrate(
    config: Config,
    mesh: Mesh,
    topology: Topology,
    platform: str,
    *,
    repeats: int = 9,
    batch_s: float = 0.1,
    report: Report = lambda _: None,
) -> Calibration:
    """Measure the operations of a layer on one device, and collectives over all.

    Args:
        config: a checked config, whose own mesh decides the shapes (it need not be present).
        mesh: the devices at hand, all on the expert axis.
        topology: of `mesh`.
        platform: "cpu" or "gpu".
        repeats: timed batches per measurement.
        batch_s: seconds of a batch, see `harness.measure`.
        report: called with each result as it comes.
    """
    device = mesh.devices.flat[0]
    measured = []
    chosen = choices(config, device, platform)
    for spec in layer_specs(config, chosen.attention, chosen.grouped):
        result = measure_spec(spec, platform, repeats, batch_s)
        report(result)
        measured.append((spec, result))
    collectives = []
    sizes = sizes_bytes(dispatch_bytes(config))
    for time in collective_times(mesh, topology.hosts, platform, sizes, repeats):
        report(time)
        collectives.append(time)
    return Calibration(
        gpu=gpu_name(device),
        hardware=describe_hardware(topology, device),
        date=datetime.date.today().isoformat(),
        versions={package: version(package) for package in PACKAGES},
        matmul_flops_per_s=_rate(measured, "matmul"),
        attention_forward_flops_per_s=_rate(measured, "attention_forward"),
        attention_backward_flops_per_s=_rate(measured, "attention_backward"),
        gather_bytes_per_s=_rate(measured, "gather"),
        memory_bytes_per_s=_rate(measured, "memory"),
        grouped_flops_per_s=(
            _rate(measured, "matmul_grouped") if chosen.grouped == "mosaic" else None
        ),
        collectives=tuple(collectives),
        measurements=tuple(result for _, result in measured),
    )


def measure_spec(spec: Spec, platform: str, repeats: int = 9, batch_s: float = 0.1) -> Measurement:
    """Time one operation on the default device."""
    function = jax.jit(spec.function, compiler_options=compiler_options(platform))
    arguments = spec.arguments()
    timing = measure(lambda: function(*arguments), repeats=repeats, batch_s=batch_s)
    return Measurement(
        suite=spec.suite,
        name=spec.name,
        seconds=timing.seconds,
        spread_s=timing.spread_s,
        repeats=timing.repeats,
        work=spec.work,
        unit=spec.unit,
        note=EMULATED if platform == "cpu" else "",
    )


def choices(config: Config, device: Device, platform: str) -> Parallel:
    """Return what the model would choose on a device: attention, grouped matmuls."""
    mesh = build_mesh(MeshConfig(), [device])
    tokens = sizes_of(config).tokens
    return resolve_parallel(config, mesh, platform=platform, hosts=(0,), batch_tokens=tokens)


def dispatch_bytes(config: Config) -> int:
    """Return the bytes that one device puts into the all-to-all of a dispatch."""
    row = config.model.d_model * jax.numpy.dtype(config.precision.compute).itemsize
    return Share(config, "forward").slots * row


def _rate(measured: Iterable[tuple[Spec, Measurement]], suite: Suite) -> float:
    """All work of a suite over all its seconds, as often as a layer does each."""
    mine = [(s.weight, m) for s, m in measured if s.suite == suite and s.weight]
    return sum(w * m.work for w, m in mine) / sum(w * m.seconds for w, m in mine)
