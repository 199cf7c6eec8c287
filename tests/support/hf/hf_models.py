"""Small random models of `transformers`, their logits and ours. No tests here."""

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from support.model_cases import logits_of

from moe_jax.axes import BATCH_AXES
from moe_jax.config import Config
from moe_jax.inference.contract import Prompt
from moe_jax.inference.engine import CachedEngine
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.interop.load import load_weights
from moe_jax.interop.open import open_model
from moe_jax.mesh.build import build_mesh, mesh_shape
from moe_jax.model.parallel import resolve_parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.session import make_session

ROWS, LENGTH, VOCAB = 8, 20, 40
#: Valid tokens of each row; the rest is padding on the right.
LENGTHS = np.array([20, 13, 7, 20, 1, 16, 19, 10])
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = 8
#: Tokens that are generated, and room for them behind the longest prompt.
NEW = 64
CONTEXT = LENGTH + NEW


@dataclass(frozen=True)
class Case:
    """A model of `transformers`: its type, and fields of its config."""

    name: str
    model_type: str
    fields: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.model_type}-{self.name}"


def make(case: Case) -> Any:
    """Returns the model, every parameter and buffer of it random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    config = AutoConfig.for_model(case.model_type, **(SIZES | case.fields))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if "inv_freq" in name:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = "norm" in name and name.endswith("weight")
        spread = 0.2 if parameter.ndim > 1 else 0.3
        parameter.data = spread * noise + (1.0 if is_scale else 0.0)
    return model


@functools.cache
def saved(case: Case, root: Path) -> Path:
    """Returns the directory that `save_pretrained` wrote, and their logits in `logits.npy`."""
    path = root / str(case)
    model = make(case)
    model.save_pretrained(path)
    np.save(path / "logits.npy", logits_of_theirs(model))
    return path


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB, size=(ROWS, LENGTH)).astype(np.int32)


def valid() -> np.ndarray:
    return np.arange(LENGTH) < LENGTHS[:, None]


def logits_of_theirs(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        ids = torch.from_numpy(tokens()).long()
        mask = torch.from_numpy(valid()).long()
        return model(ids, attention_mask=mask, use_cache=False).logits.numpy()


def logits_after_loading(path: Path) -> np.ndarray:
    """Returns their logits of a directory."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return logits_of_theirs(model.eval())


def mesh_of(config: Config) -> Mesh:
    """Returns the config's mesh, over the first devices of this process."""
    return build_mesh(config.mesh, jax.devices()[: math.prod(mesh_shape(config.mesh))])


def logits_of_ours(path: Path, *overrides: str) -> np.ndarray:
    """Returns the logits of a directory, read and computed on a mesh of this process's devices."""
    usual = [f"train.global_batch={ROWS}", f"exchange.capacity_factor={EXPERTS}"]
    opened = open_model(path, [*usual, *overrides], "float32")
    config = opened.config
    shards = math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)
    mesh = mesh_of(config)
    parallel = resolve_parallel(
        config,
        mesh,
        platform="cpu",
        hosts=tuple(int(i >= shards / 2) for i in range(shards)),
        batch_tokens=ROWS * LENGTH // shards,
    )
    skeleton = Skeleton(config)
    weights = load_weights(opened.source, config, opened.family, mesh)

    def logits(weights: Any, ids: Any, positions: Any, segments: Any) -> Any:
        model = skeleton.merge(weights)
        streams, _ = model.hidden(ids, positions, segments, parallel)
        return logits_of(model, streams, parallel)

    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    inputs = [a[None] for a in (tokens(), positions, valid().astype(np.int32))]
    (result,) = jax.jit(logits)(weights, *inputs)
    return np.asarray(result)


def prompts() -> list[np.ndarray]:
    """Returns texts of different lengths."""
    return [row[:length] for row, length in zip(tokens(), LENGTHS, strict=True)]


def continued_by_theirs(case: Case) -> np.ndarray:
    """Returns the likeliest continuations, each prompt by itself."""
    import torch

    model = make(case)

    def continued(prompt: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(prompt)[None].long()
        mask = torch.ones_like(ids)
        found = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
        return found[0, prompt.size :].numpy()

    return np.stack([continued(prompt) for prompt in prompts()])


def continued_by_ours(path: Path, *overrides: str) -> np.ndarray:
    """Returns the likeliest continuations, all prompts in one batch."""
    usual = ["data.document_mask=none", f"data.sequence_length={CONTEXT}", "train.global_batch=8"]
    opened = open_model(path, [*usual, *overrides], "float32")
    session = make_session(opened.config, "cpu", mesh=mesh_of(opened.config))
    weights = load_weights(opened.source, opened.config, opened.family, session.mesh)
    engine = CachedEngine(session, weights, slots=ROWS, context=CONTEXT)
    greedy = SamplingOptions(temperature=0)
    first = engine.start([Prompt(prompt, greedy) for prompt in prompts()])
    columns = [{token.slot: token.id for token in first}]
    columns += [{token.slot: token.id for token in engine.step()} for _ in range(NEW - 1)]
    return np.array([[column[token.slot] for column in columns] for token in first])
