"""`moe-jax serve MODEL`: answer HTTP requests as OpenAI's API does."""

import argparse
import logging
import os
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import (
    add_job_arguments,
    add_model_arguments,
    job_flags,
    load_model,
)
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError
from moe_jax.inference.contract import USUAL_SLOTS, Engine

if TYPE_CHECKING:
    from moe_jax.data.tokenizers import Tokenizer
    from moe_jax.inference.engine import CachedEngine
    from moe_jax.serve.assemble import Settings, WarmUp

log = logging.getLogger(__name__)

#: Another place for the API key than a file.
KEY_VARIABLE = "MOE_JAX_API_KEY"
#: What the server itself needs, all in the extra `serve`.
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Serve /v1/completions, /v1/chat/completions, /v1/models, /health and /metrics. "
        "Requests share the model's slots; what finds no slot waits in a queue of bounded "
        "length. In a job of several processes the first one serves and the others follow. "
        "SIGTERM and Ctrl-C let answers finish; asking twice cancels them."
    )
    add_model_arguments(parser)
    _add_http_arguments(parser)
    _add_limits(parser)
    add_job_arguments(parser)
    parser.set_defaults(run=run)


def _add_http_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 is any (%(default)s)")
    parser.add_argument(
        "--warm-up",
        choices=("short", "all"),
        default="short",
        help="compile before listening: decode and few lengths of prompts, or prompts of all "
        "lengths, which otherwise compile when the first of a length comes (%(default)s)",
    )
    parser.add_argument("--name", help="of the model, for clients (default: of its directory)")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"holds the key that clients must present (or set {KEY_VARIABLE})",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--slots", type=int, default=USUAL_SLOTS, help="texts that run together (%(default)s)"
    )
    group.add_argument(
        "--context", type=int, help="tokens of prompt and answer (default: the config's sequences)"
    )
    group.add_argument(
        "--max-tokens", type=int, help="tokens generated per text (default: what fits)"
    )
    group.add_argument(
        "--queue", type=int, default=128, help="texts that wait for a slot (%(default)s)"
    )
    group.add_argument(
        "--max-body", type=int, default=1 << 20, metavar="BYTES", help="per request (%(default)s)"
    )
    group.add_argument(
        "--grace", type=float, default=30, metavar="S", help="to finish at the end (%(default)s)"
    )
    group.add_argument(
        "--stalled-after",
        type=float,
        default=600,
        metavar="S",
        help="without a step (compiling counts) /health turns red (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until asked to end; return an exit code.

    Raises:
        UserError: the extra is missing, the model cannot be loaded, or an option is out of range.
    """
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} missing: pip install 'moe-jax[serve]'")
    import_jax()
    from moe_jax.inference.multihost import BroadcastingEngine, Channel, job_store
    from moe_jax.mesh.distributed import start_distributed
    from moe_jax.serve.assemble import Settings
    from moe_jax.serve.server import is_loopback, listen

    settings = Settings(
        queue=args.queue,
        max_tokens=args.max_tokens,
        max_body=args.max_body,
        api_key=_api_key(args.api_key_file),
        grace=args.grace,
        stalled_after=args.stalled_after,
    )
    flags = job_flags(args)
    job = start_distributed(flags)
    if job.process_id:
        return _follow(load_model(args, flags).engine(args.slots, args.context))
    # Before anything is loaded: a port in use should not cost minutes.
    with listen(args.host, args.port) as bound:
        if settings.api_key is None and not is_loopback(bound):
            log.warning("no API key: everybody who reaches %s may ask", args.host)
        model = load_model(args, flags)
        engine = model.engine(args.slots, args.context)
        name = args.name or model.name
        if job.num_processes == 1:
            return _serve(engine, model.tokenizer, name, settings, bound, args.warm_up)
        leading = BroadcastingEngine(engine, Channel(job_store(), "engine"))
        code = _serve(leading, model.tokenizer, name, settings, bound, args.warm_up)
    # After a failure the others have failed too, or wait for devices that will not answer: they
    # end with this process.
    if code == exit_codes.OK:
        leading.stop()
    return code


def _serve(
    engine: Engine,
    tokenizer: "Tokenizer",
    name: str,
    settings: "Settings",
    bound: socket.socket,
    prompts: "WarmUp",
) -> int:
    from moe_jax.serve.assemble import make_server, warm_up

    host, port = bound.getsockname()[:2]
    print(f"{name}: {engine.slots} slots of {engine.context} tokens; compiling", flush=True)
    warm_up(engine, tokenizer, prompts)
    server = make_server(engine, tokenizer, name, settings, bound)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    in_order = server.run(lambda: print(f"serving {name} at {url}/v1", flush=True))
    print("ended", flush=True)
    return exit_codes.OK if in_order else exit_codes.FAILED


def _follow(engine: "CachedEngine") -> int:
    """Repeat what process 0 does; it also decides when to end, whoever else gets the signal."""
    from moe_jax.inference.multihost import Channel, follow, job_store

    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, signal.SIG_IGN)
    follow(engine, Channel(job_store(), "engine"))
    return exit_codes.OK


def _api_key(path: Path | None) -> str | None:
    """Return the key that a file or the environment holds; None where neither does.

    Args:
        path: of `--api-key-file`; None where it was not given.

    Raises:
        UserError: both do, or the file cannot be read.
    """
    from_environ = os.environ.get(KEY_VARIABLE)
    if path is None:
        return from_environ
    if from_environ is not None:
        raise UserError(f"--api-key-file and {KEY_VARIABLE} are both given: drop one of them")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {path} cannot be read: {error}") from None
