"""`moe-jax generate MODEL --prompt TEXT`: continue a text, or answer a chat, as it comes."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import (
    add_job_arguments,
    add_model_arguments,
    job_flags,
    load_model,
)
from moe_jax.errors import UserError
from moe_jax.inference.contract import USUAL_SLOTS
from moe_jax.inference.sampling_options import SamplingOptions, sample_options

if TYPE_CHECKING:
    import numpy as np

    from moe_jax.inference.contract import GenerationRequest
    from moe_jax.inference.language_model import LanguageModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Continue TEXT, or answer it as a chat, with a model: a Hugging Face directory, the "
        "working directory of a run, or what `moe-jax convert` made; on any mesh "
        "(--set mesh.expert=4)."
    )
    add_model_arguments(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="text to continue")
    prompt.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="file with the text; - reads from stdin"
    )
    parser.add_argument("--chat", action="store_true", help="TEXT is a message to answer")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: how to answer")
    parser.add_argument(
        "--max-tokens", type=int, default=200, help="tokens to generate (%(default)s)"
    )
    parser.add_argument(
        "--num-samples", type=int, default=1, help="continuations to generate (%(default)s)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated"
    )
    _add_sampling(parser)
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens of prompt and answer (default: what they need, at most data.sequence_length)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help=f"samples at a time (default: all, but at most {USUAL_SLOTS})",
    )
    add_job_arguments(parser)
    parser.set_defaults(run=run)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    default = SamplingOptions()
    group = parser.add_argument_group(
        "sampling", "Of generation_config.json only the tokens that end a text are used."
    )
    for name, kind, meaning in (
        ("temperature", float, "0 is greedy"),
        ("top-k", int, "0 considers all tokens"),
        ("top-p", float, "1 considers all tokens"),
        ("min-p", float, "0 considers all tokens"),
        ("repetition-penalty", float, "1 is none"),
        ("frequency-penalty", float, "for each time that a token was generated; 0 is none"),
        ("presence-penalty", float, "once for all tokens that were generated; 0 is none"),
        ("seed", int, "same seed, same text; sample i has SEED + i - 1"),
    ):
        value = getattr(default, name.replace("-", "_"))
        group.add_argument(f"--{name}", type=kind, default=value, help=f"{meaning} ({value})")


def run(args: argparse.Namespace) -> int:
    """Print prompt and continuation(s), or answer(s); return an exit code.

    Raises:
        UserError: the model or the prompt cannot be read, or an option is out of range.
    """
    # Before the model: it takes a while, and these may be wrong.
    samples = sample_options(_sampling(args), args.num_samples)
    text = _text(args)
    if args.system is not None and not args.chat:
        raise UserError("--system is part of a chat: add --chat")
    model = load_model(args, job_flags(args))
    tokens = _tokens(args, text, model)
    requests = [
        model.request(tokens, max_tokens=args.max_tokens, stop=args.stop, sampling=one)
        for one in samples
    ]
    # What a chat's template makes of a message is not for people to read.
    _print(model, requests, "" if args.chat else text, args)
    return exit_codes.OK


def _sampling(args: argparse.Namespace) -> SamplingOptions:
    return SamplingOptions(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
        seed=args.seed,
    )


def _text(args: argparse.Namespace) -> str:
    if args.prompt_file is None:
        return args.prompt
    if str(args.prompt_file) == "-":
        return sys.stdin.read()
    try:
        return args.prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt-file {args.prompt_file} cannot be read: {error}") from error


def _tokens(args: argparse.Namespace, text: str, model: "LanguageModel") -> "np.ndarray":
    if not args.chat:
        return model.tokenizer.encode_prompt(text)
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    return model.tokenizer.encode_chat([*system, {"role": "user", "content": text}])


def _print(
    model: "LanguageModel",
    requests: "list[GenerationRequest]",
    prompt: str,
    args: argparse.Namespace,
) -> None:
    """Stream a single sample as it comes; several are printed one after the other at the end."""
    import jax

    # Before the first print: it refuses what cannot be generated.
    events = model.stream(requests, args.slots, args.context)
    show = jax.process_index() == 0
    single = len(requests) == 1
    if single and show:
        print(prompt, end="", flush=True)
    texts = [prompt] * len(requests)
    for place, event in events:
        texts[place] += event.text
        if single and show:
            print(event.text, end="", flush=True)
    if single and show:
        print()
    for i, text in enumerate(texts):
        if show and not single:
            print(f"--- sample {i + 1}\n{text}")
