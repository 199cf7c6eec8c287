"""`moe-jax bench SUITE`: measure the hardware at hand. What is measured, and how, is `bench/`."""

import argparse
import math
from pathlib import Path

from moe_jax.cli.bench.attention import add_attention
from moe_jax.cli.bench.decode import add_decode
from moe_jax.cli.bench.grouped import add_grouped
from moe_jax.cli.bench.overlap import add_overlap
from moe_jax.cli.bench.rivals import add_rivals
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import config_of_source_tree, require_writable, write_json
from moe_jax.cli.shared.options import (
    add_config_arguments,
    add_job_arguments,
    add_override_argument,
    job_flags,
    load,
)
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import Config, load_config
from moe_jax.config.schema import MeshConfig, RuntimeConfig
from moe_jax.errors import UserError

#: What `bench layouts` always compares: the first with the others.
LAYOUTS = ("paper_ep16", "paper_baseline_tp8_pp2", "paper_baseline_tuned")

Suites = argparse._SubParsersAction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = "Measure the hardware at hand; every figure stands beside its bound."
    suites = parser.add_subparsers(dest="suite", required=True, metavar="SUITE")
    _add_calibrate(suites)
    _add_step(suites)
    _add_layouts(suites)
    add_attention(suites)
    add_decode(suites)
    add_grouped(suites)
    add_overlap(suites)
    add_rivals(suites)


def _add_calibrate(suites: Suites) -> None:
    parser = suites.add_parser(
        "calibrate",
        help="matmul, attention, gathers, memory, collectives; for `plan --calibration`",
        description=(
            "Measure the operations of one MoE layer on one device, and collectives over all "
            "devices of the job. Shapes are those of CONFIG, on its own mesh, which need not be "
            "present; without CONFIG, of a device of configs/paper_ep16.toml."
        ),
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--out", type=Path, metavar="FILE.toml", help="write the calibration here")
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="devices of each process (default: its GPUs, or 1 emulated device)",
    )
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="timed batches each")
    add_job_arguments(parser)
    parser.set_defaults(run=run_calibrate)


def _add_step(suites: Suites) -> None:
    parser = suites.add_parser(
        "step",
        help="a whole training step or forward pass of CONFIG",
        description="Time the training step, or the forward pass, of CONFIG on random tokens.",
    )
    add_config_arguments(parser)
    parser.add_argument("--mode", choices=("train", "forward"), default="train")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed steps")
    parser.add_argument(
        "--mock",
        action="store_true",
        help="run one device's program of CONFIG's mesh on the one GPU here: compute only",
    )
    add_job_arguments(parser)
    parser.set_defaults(run=run_step)


def _add_layouts(suites: Suites) -> None:
    import_jax()
    from moe_jax.bench.programs.layouts import CAVEAT, REDUCED

    parser = suites.add_parser(
        "layouts",
        help="the paper's layout against its baselines, on emulated devices",
        description=(
            "Time the forward pass and the training step of one small model under the layouts of "
            f"configs/{LAYOUTS[0]}.toml, both baselines and every CONFIG, one after another. "
            f"{CAVEAT}"
        ),
        epilog=f"sizes, for all: {' '.join(REDUCED)}",
    )
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="further layouts")
    add_override_argument(parser, "change a value of all configs")
    parser.add_argument(
        "--devices",
        type=int,
        default=0,
        metavar="N",
        help="cut every mesh's largest axis to fit N devices (default: 16)",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed steps each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.set_defaults(run=run_layouts)


def run_calibrate(args: argparse.Namespace) -> int:
    """Measure, print, write `--out`; return an exit code.

    Raises:
        UserError: the config, the job's description or an option is wrong.
    """
    if args.config is None and args.overrides:
        raise UserError("--set changes a config: give the CONFIG too")
    if args.out is not None and not args.out.parent.is_dir():
        raise UserError(f"--out {args.out}: {args.out.parent} is no directory: make it first")
    import jax

    from moe_jax.bench.machine import describe_hardware
    from moe_jax.bench.operations.calibrate import calibrate
    from moe_jax.bench.operations.sizes import PAPER
    from moe_jax.cli.bench.tables import (
        collective_table,
        console,
        measurement_table,
        rate_table,
        title,
    )
    from moe_jax.hardware.calibration import save_calibration
    from moe_jax.hardware.gpus import gpu_by_device_kind
    from moe_jax.hardware.topology import detect_topology
    from moe_jax.mesh.build import build_mesh
    from moe_jax.mesh.distributed import start_distributed
    from moe_jax.mesh.platform import count_gpus, prepare_devices

    config = PAPER if args.config is None else load(args)
    job = start_distributed(job_flags(args))
    devices = job.num_processes * (args.devices or count_gpus() or 1)
    here = MeshConfig(expert=devices)
    runtime = RuntimeConfig() if args.config is None else config.runtime
    platform = prepare_devices(Config(mesh=here, runtime=runtime), job.num_processes)
    mesh = build_mesh(here)
    topology = detect_topology(list(mesh.devices.flat))
    out = console()
    out.print(f"measuring {describe_hardware(topology, mesh.devices.flat[0])}")
    result = calibrate(
        config,
        mesh,
        topology,
        platform,
        repeats=args.repeats,
        report=lambda time: out.print(f"  {title(time)}: {time.seconds * 1e3:.4g} ms"),
    )
    gpu = gpu_by_device_kind(mesh.devices.flat[0].device_kind)
    out.print(measurement_table(result.measurements, gpu))
    if result.collectives:
        links = (topology.nvlink_bytes_per_s, topology.network_bytes_per_s)
        out.print(collective_table(result.collectives, links[topology.hosts > 1]))
    out.print(rate_table(result))
    if args.out is not None and jax.process_index() == 0:
        save_calibration(result, args.out)
        out.print(f"wrote {args.out}")
    return exit_codes.OK


def run_step(args: argparse.Namespace) -> int:
    """Measure one program and print it; return an exit code.

    Raises:
        UserError: the config or the job's description is wrong, or there is no GPU for `--mock`.
    """
    config = load(args)
    import jax

    from moe_jax.bench.programs.step import measure_step
    from moe_jax.cli.bench.tables import console, measurement_table
    from moe_jax.hardware.gpus import gpu_by_device_kind
    from moe_jax.mesh.distributed import start_distributed
    from moe_jax.mesh.platform import prepare_devices
    from moe_jax.session import make_session

    job = start_distributed(job_flags(args))
    if args.mock:
        _mock(config)
        platform = "gpu"
    else:
        platform = prepare_devices(config, job.num_processes)
    session = make_session(config, platform)
    result = measure_step(session, args.mode, repeats=args.repeats, mock=args.mock)
    device = jax.local_devices()[0]
    out = console()
    out.print(measurement_table([result], gpu_by_device_kind(device.device_kind)))
    if stats := device.memory_stats():
        out.print(f"peak memory {stats['peak_bytes_in_use'] / 2**30:.1f} GiB (measured)")
    return exit_codes.OK


def run_layouts(args: argparse.Namespace) -> int:
    """Measure, print, write `--json`; return an exit code.

    Raises:
        UserError: a config, an override or the number of devices does not suit all layouts.
    """
    require_writable(args.json)
    command = "moe-jax bench layouts"
    paths = [config_of_source_tree(f"{name}.toml", command) for name in LAYOUTS] + args.configs
    whole = [load_config(path) for path in paths]
    from moe_jax.bench.programs.layouts import CAVEAT, REDUCED, measure_layouts, reduced
    from moe_jax.cli.bench.tables import console, layout_line, layout_table
    from moe_jax.mesh.build import mesh_shape
    from moe_jax.mesh.platform import prepare_devices

    devices = args.devices or math.prod(mesh_shape(whole[0].mesh))
    configs = [reduced(config, args.overrides, devices) for config in whole]
    platform = prepare_devices(configs[0])
    out = console()
    result = measure_layouts(
        configs,
        platform,
        overrides=(*REDUCED, *args.overrides),
        repeats=args.repeats,
        report=lambda time: out.print(f"  {layout_line(time)}"),
    )
    out.print(layout_table(result))
    if platform == "cpu":
        out.print(CAVEAT)
    if args.json is not None:
        write_json(args.json, result.to_json())
    return exit_codes.OK


def _mock(config: Config) -> None:
    from moe_jax.bench.programs.mock import pretend_devices
    from moe_jax.mesh.build import mesh_shape
    from moe_jax.mesh.platform import count_gpus

    if (gpus := count_gpus()) != 1:
        raise UserError(
            f"--mock needs exactly 1 GPU in this process and there are {gpus}: set "
            "CUDA_VISIBLE_DEVICES=0 on a machine with several"
        )
    pretend_devices(math.prod(mesh_shape(config.mesh)))
