"""Asking a model: from a text to the programs on the devices, and back.

    model.generate("x")                        POST /v1/completions {"prompt": "x"}
      |  language_model                          |  serve: parameters, request
      |                                          |
      +---- a text becomes tokens; every rule of prompts: checks ----+
      |                                          |
      v  GenerationRequest                       v  serve/engine_thread: one batcher for all
    Batcher.submit, .advance                   batcher: who gets a slot when, when a text ends
      |  Prompt (the request is one)             (stopping: stop strings)
      v
    Engine.start, .step, .release              engine: texts, each in a slot of the cache
      |                                          (multihost: the same calls in every process)
      |  PlacedPrompt, PromptBatch             prompt_batches: which device reads which prompt
      v
    prefill, decode                            programs: what is compiled, calls
                                                 model/decoding, then sampling

Back come a `Token` per slot and step from the engine, an `Event` per request from the batcher
(tokens, and the text that became certain), and a `Completion` or a str to the caller; over HTTP
the JSON of `serve/formats`. All of these, and what an engine promises, are in `contract`.

Beside the chain: `loading` makes a `LanguageModel` of a directory, with a config as
`inference_config` changes it; `forward` reads whole texts at once (logits, scores), and `evaluate`
sums that over a corpus. How to sample is `sampling_options`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_jax.inference.contract import (
        Completion,
        Engine,
        Event,
        GenerationRequest,
        Prompt,
        Score,
        Token,
    )
    from moe_jax.inference.language_model import LanguageModel
    from moe_jax.inference.loading import from_hf, load
    from moe_jax.inference.sampling_options import SamplingOptions

__all__ = [
    "Completion",
    "Engine",
    "Event",
    "GenerationRequest",
    "LanguageModel",
    "Prompt",
    "SamplingOptions",
    "Score",
    "Token",
    "from_hf",
    "load",
]
#: The module of each name that is not in `contract`.
_HOMES = {
    "LanguageModel": "language_model",
    "SamplingOptions": "sampling_options",
    "from_hf": "loading",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: the package alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'contract')}"), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
