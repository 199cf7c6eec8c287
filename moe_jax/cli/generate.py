"""`moe-jax generate WORKDIR --prompt TEXT`: sample from a run's newest checkpoint."""

import argparse
import math
from pathlib import Path

import numpy as np

from moe_jax.checkpoint import Checkpoints
from moe_jax.cli import exit_codes
from moe_jax.config import Config, override, parse_config
from moe_jax.data import Tokenizer, load_tokenizer
from moe_jax.inference.generate import Generator
from moe_jax.inference.sampling import SamplingOptions
from moe_jax.mesh.axes import BATCH_AXES
from moe_jax.mesh.build import prepare_devices
from moe_jax.train.session import make_session
from moe_jax.train.workdir import CONFIG


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="sample text from a trained model",
        description="Continue TEXT with the model of a run, on any mesh (--set mesh.expert=1).",
    )
    parser.add_argument("workdir", type=Path, help="working directory of a run")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens to generate")
    parser.add_argument("--num-samples", type=int, default=1, help="continuations to generate")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 considers all tokens")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 considers all tokens")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text")
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest good)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a config value, such as the mesh to run on; may be repeated",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints prompt and continuation(s); returns an exit code."""
    options = SamplingOptions(args.temperature, args.top_k, args.top_p, seed=args.seed)
    if not args.workdir.is_dir():
        raise ValueError(f"{args.workdir} is not a directory: give the --workdir of a training run")
    config = _inference_config(args.workdir, args.overrides)
    platform = prepare_devices(config)
    session = make_session(config, platform, batch_tokens=config.data.sequence_length)
    params, buffers = session.steps.skeleton.abstract(session.mesh)
    wanted = {"params": params, "buffers": buffers}
    step = "latest" if args.step is None else args.step
    with Checkpoints(args.workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(wanted, step=step, missing="error", extra="ignore")
    assert restored is not None, "missing='error' raises instead"
    tokenizer = load_tokenizer(config.data)
    generator = Generator(
        session.steps.skeleton,
        session.steps.parallel,
        restored.state["params"],
        restored.state["buffers"],
        samples=args.num_samples,
        platform=platform,
    )
    prompt = _encode(args.prompt, tokenizer)
    _print_stream(generator, prompt, args, options, tokenizer)
    return exit_codes.OK


def _inference_config(workdir: Path, overrides: list[str]) -> Config:
    """Returns the run's config with `overrides`, and a batch that one sample per shard fills.

    Those samples go through a pipeline one by one, in one round.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise ValueError(f"{path} is missing: give the --workdir of a training run")
    config = parse_config(path.read_text(), overrides, origin=str(path))
    shards = math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)
    whole = ["exchange.streams=1", "exchange.overflow=rounds", "train.accumulation=1"]
    in_turn = [f"pipeline.microbatches={config.mesh.pipe}", "pipeline.virtual_stages=1"]
    return override(config, [*whole, *in_turn, f"train.global_batch={shards}"])


def _encode(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """An empty prompt starts a document: what follows an end of document is a beginning."""
    tokens = tokenizer.encode(text)
    return tokens if tokens.size else np.array([tokenizer.end_id], np.int32)


def _print_stream(
    generator: Generator,
    prompt: np.ndarray,
    args: argparse.Namespace,
    options: SamplingOptions,
    tokenizer: Tokenizer,
) -> None:
    """Streams a single sample as it comes; several are printed one after the other at the end.

    A sample ends where it ends its document.
    """
    decoders = [tokenizer.stream_decoder() for _ in range(args.num_samples)]
    texts = [args.prompt] * args.num_samples
    ended = [False] * args.num_samples
    single = args.num_samples == 1
    # Before the first print: it refuses what cannot be generated.
    stream = generator.stream(prompt, args.max_tokens, options)
    if single:
        print(args.prompt, end="", flush=True)
    for tokens in stream:
        for i, token in enumerate(tokens.tolist()):
            ended[i] = ended[i] or token == tokenizer.end_id
            if not ended[i]:
                piece = decoders[i].push(token)
                texts[i] += piece
                if single:
                    print(piece, end="", flush=True)
        if all(ended):
            break
    rest = [decoder.finish() for decoder in decoders]
    if single:
        print(rest[0])
        return
    for i, text in enumerate(texts):
        print(f"--- sample {i + 1}\n{text}{rest[i]}")
