"""`moe-jax bench attention`: attention's implementations. Measuring is `bench/attention/`."""

import argparse
from typing import Any

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError


def add_attention(suites: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the suite `attention` and its arguments."""
    parser = suites.add_parser(
        "attention",
        help="attention: packed documents, windows, sinks, wide heads; checked and timed",
        description=(
            "Check every implementation of attention that runs here against float32, values and "
            "gradients, feature by feature; then time it on layers of known models, beside what "
            "the work takes at best and beside torch's."
        ),
    )
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=("cudnn", "xla", "torch"),
        help="torch: scaled_dot_product_attention or flex_attention, timed only (default: ours)",
    )
    parser.add_argument("--no-check", action="store_true", help="time only")
    parser.add_argument("--no-times", action="store_true", help="check only")
    parser.set_defaults(run=run_attention)


def run_attention(args: argparse.Namespace) -> int:
    """Check, measure and print; return an exit code: `FAILED` when a check failed.

    Raises:
        UserError: an implementation cannot run here.
    """
    import_jax()
    import jax

    device = jax.devices()[0]
    gpu = device.platform == "gpu"
    names = args.implementations or (["cudnn", "xla"] if gpu else ["xla"])
    if "cudnn" in names and not gpu:
        raise UserError(
            f"--implementations cudnn needs an NVIDIA GPU and the device is a {device.platform}: "
            "use --implementations xla"
        )
    _say(f"{device.device_kind}, JAX {jax.__version__}")
    ours = [name for name in names if name != "torch"]
    failed = 0 if args.no_check or not ours else _check(ours, gpu)
    if not args.no_times:
        _time(ours, "torch" in names, gpu)
    return exit_codes.FAILED if failed else exit_codes.OK


def _check(names: list[Any], gpu: bool) -> int:
    from moe_jax.bench.attention.cases import CHECKED, SMALL
    from moe_jax.bench.attention.check import check

    cases, dtype = (CHECKED, "bfloat16") if gpu else (SMALL, "float32")
    verdicts = check(names, cases, _say, dtype)
    failed = sum(not verdict.passed for verdict in verdicts)
    _say(f"{len(verdicts) - failed} of {len(verdicts)} checks passed")
    return failed


def _time(names: list[Any], torch: bool, gpu: bool) -> None:
    import jax

    from moe_jax.bench.attention.cases import SMALL, TIMED
    from moe_jax.bench.attention.times import time_attention
    from moe_jax.hardware.gpus import gpu_by_device_kind

    known = gpu_by_device_kind(jax.devices()[0].device_kind)
    peak = known.peak_bf16_flops if known else None
    cases, dtype = (TIMED, "bfloat16") if gpu else (SMALL, "float32")
    for time in time_attention(names, cases, dtype):
        _say(time if isinstance(time, str) else time.line(peak))
    if not torch:
        return
    try:
        from moe_jax.bench.attention.torch_rivals import time_torch_attention
    except ImportError as error:
        raise UserError(f"--implementations torch needs torch 2.6 or newer: {error}") from error
    for time in time_torch_attention(cases, "cuda" if gpu else "cpu"):
        _say(time if isinstance(time, str) else time.line(peak))


def _say(line: str) -> None:
    print(line, flush=True)
