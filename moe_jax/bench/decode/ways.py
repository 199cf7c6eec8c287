"""Tokens per second of generation, by batch size and way.

The ways: with the cache, with a full forward pass per token, and with transformers on the same
model and cores.

All three continue the same random tokens greedily and hand every token to the host. Timing itself
is `harness.py`, the full forward pass `full_forward.py`, what comes out `times.py`.
"""

import datetime
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from moe_jax.bench.decode.full_forward import Generator
from moe_jax.bench.decode.times import DecodeTime, DecodeTimes
from moe_jax.bench.harness import Timing, measure
from moe_jax.bench.machine import PACKAGES, cores, describe_hardware
from moe_jax.bench.programs.layouts import axes_text
from moe_jax.errors import UserError
from moe_jax.inference.contract import Prompt
from moe_jax.inference.language_model import LanguageModel
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.interop.files.tokenizer_files import is_hf_directory
from moe_jax.session import make_session

GREEDY = SamplingOptions(temperature=0)


@dataclass(frozen=True)
class Work:
    """What every way does: prompts of `prompt_tokens`, then `steps` tokens `repeats` times.

    Raises:
        UserError: the cache's `room`, in tokens, is less than the texts need.
    """

    prompt_tokens: int
    steps: int
    repeats: int
    #: None is as much as the texts need.
    room: int | None = None

    def __post_init__(self) -> None:
        if self.context < self.tokens:
            raise UserError(
                f"a context of {self.context} tokens is too short for texts of {self.tokens} "
                f"({self.prompt_tokens} of a prompt, {self.new_tokens} new): take at least that"
            )

    @property
    def new_tokens(self) -> int:
        """Tokens after a prompt: its first, one that may compile, warm-up, timed ones."""
        return 2 + self.steps * (self.repeats + 1)

    @property
    def tokens(self) -> int:
        """Tokens of a text when all is done."""
        return self.prompt_tokens + self.new_tokens

    @property
    def context(self) -> int:
        """Tokens of a text for which the cache has room."""
        return self.tokens if self.room is None else self.room

    def prompts(self, batch: int, vocabulary: int) -> np.ndarray:
        """Return int32 [batch, prompt_tokens], the same for every way."""
        rng = np.random.default_rng(0)
        return rng.integers(0, vocabulary, (batch, self.prompt_tokens)).astype(np.int32)

    def time(self, step: Callable[[], Any]) -> Timing:
        """Time one call of `step`, which makes a token of every text."""
        return measure(step, repeats=self.repeats, calls=self.steps)


def measure_decode(
    model: LanguageModel,
    path: Path,
    batches: Sequence[int],
    work: Work,
    report: Callable[[DecodeTime], None] = lambda _: None,
) -> DecodeTimes:
    """Time all ways at each batch size.

    Args:
        model: what `load` made of `path`.
        path: where transformers finds the same model, if it is a Hugging Face directory.
        batches: texts at a time.
        work: how long texts are, and how often they are timed.
        report: called with each result as it comes.
    """
    skipped = {}
    if reason := why_not_transformers(path):
        skipped["transformers"] = reason
    times = []
    for time in _measure(model, path, batches, work, with_theirs=not skipped):
        report(time)
        times.append(time)
    session, packages = model.session, (*PACKAGES, *([] if skipped else ["torch", "transformers"]))
    return DecodeTimes(
        model=model.name,
        dtype=model.config.precision.compute,
        mesh=axes_text(model.config.mesh),
        hardware=describe_hardware(session.topology, session.mesh.devices.flat[0]),
        cores=cores(),
        date=datetime.date.today().isoformat(),
        versions={package: version(package) for package in packages},
        prompt_tokens=work.prompt_tokens,
        new_tokens=work.new_tokens,
        context=work.context,
        repeats=work.repeats,
        skipped=skipped,
        times=tuple(times),
    )


def why_not_transformers(path: Path) -> str:
    """Return why transformers cannot be measured on a model; nothing if it can."""
    if not is_hf_directory(path):
        return "it reads Hugging Face directories only: moe-jax convert to-hf makes one"
    missing = [package for package in ("torch", "transformers") if find_spec(package) is None]
    return f"{' and '.join(missing)} not installed: pip install 'moe-jax[test]'" if missing else ""


def _measure(
    model: LanguageModel, path: Path, batches: Sequence[int], work: Work, *, with_theirs: bool
) -> Iterator[DecodeTime]:
    theirs = _load_theirs(path, model.config.precision.compute) if with_theirs else None
    for batch in batches:
        prompts = work.prompts(batch, model.config.model.vocab_size)
        yield cached(model, prompts, work)
        yield full_forward(model, prompts, work)
        if theirs is not None:
            yield transformers(theirs, prompts, work)


def cached(model: LanguageModel, prompts: np.ndarray, work: Work) -> DecodeTime:
    """Time the engine: all texts start together, then go on together."""
    batch = len(prompts)
    engine = model.engine(batch, work.context)
    asked = [Prompt(tokens, GREEDY) for tokens in prompts]

    def read() -> None:
        tokens = engine.start(asked)
        engine.release([token.slot for token in tokens])

    reading = measure(read, repeats=work.repeats, calls=1)
    engine.start(asked)
    timing = work.time(engine.step)
    return DecodeTime("cache", batch, timing.seconds, timing.spread_s, reading.seconds)


def full_forward(model: LanguageModel, prompts: np.ndarray, work: Work) -> DecodeTime:
    """Time a forward pass over prompt and answer for each token."""
    batch = len(prompts)
    data = model.config.data.model_copy(update={"sequence_length": _whole(work.tokens, model)})
    config = model.config.model_copy(update={"data": data})
    session = model.session
    session = make_session(config, session.platform, mesh=session.mesh)
    generator = Generator(
        session.skeleton,
        session.parallel,
        model.weights,
        samples=batch,
        platform=session.platform,
    )
    # Every row computes alike, so one prompt does for all.
    stream = generator.stream(prompts[0], work.new_tokens, GREEDY)
    timing = work.time(lambda: next(stream))
    return DecodeTime("full forward", batch, timing.seconds, timing.spread_s, 0.0)


def transformers(theirs: Any, prompts: np.ndarray, work: Work) -> DecodeTime:
    """Time transformers' own cache, a step of its model at a time."""
    import torch

    batch = len(prompts)
    tokens = torch.tensor(prompts, dtype=torch.int64)

    # Renamed in the course of transformers 5.
    named = inspect.signature(theirs.forward).parameters
    cached = "cache" if "cache" in named else "past_key_values"

    def forward(ids: Any, cache: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            output = theirs(input_ids=ids, **{cached: cache}, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True), getattr(output, cached)

    reading = measure(lambda: forward(tokens, None)[0].tolist(), repeats=work.repeats, calls=1)
    state = forward(tokens, None)

    def step() -> list[int]:
        nonlocal state
        state = forward(*state)
        return state[0].tolist()

    timing = work.time(step)
    return DecodeTime("transformers", batch, timing.seconds, timing.spread_s, reading.seconds)


def _load_theirs(path: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cores())
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()


def _whole(tokens: int, model: LanguageModel) -> int:
    """Sequences are split equally over the tensor axis."""
    return -(-tokens // model.config.mesh.tensor) * model.config.mesh.tensor
