"""Generation with a full forward pass per token: what a cache is measured against.

The model sees a window of the config's sequence length; a longer text slides through it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from moe_jax.axes import PIPE, TENSOR
from moe_jax.errors import UserError
from moe_jax.inference.checks import token_ids
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.sampling import Held, SamplingArrays, sample, stack
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.parallel import Parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights
from moe_jax.sharding.regions import run_gathered
from moe_jax.sharding.rules import BATCH


class Generator:
    """Samples continuations of prompts; compiles once, for a fixed window and batch.

    Args:
        skeleton: the model's structure. Its exchange must not drop tokens, or a continuation
            would depend on what else is in the batch.
        parallel: where to run.
        weights: the model's values.
        samples: continuations at a time; rounded up to the number of batch shards.
        platform: "cpu" or "gpu".

    Raises:
        UserError: for an exchange that drops tokens, or no samples.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        parallel: Parallel,
        weights: Weights,
        *,
        samples: int,
        platform: str,
    ):
        if parallel.exchange_spec.overflow != "rounds":
            raise UserError(
                "exchange.overflow='drop' makes a continuation depend on the rest of the batch: "
                "generate with exchange.overflow='rounds'"
            )
        if samples < 1:
            raise UserError(f"samples ({samples}) must be 1 or more")
        self._weights = weights
        # Rows are a multiple of the batch shards: that many microbatches divide them, and keep
        # every stage busy.
        stages = parallel.placement.sizes[PIPE]
        self._skeleton, self._parallel = skeleton, replace(parallel, microbatches=stages)
        self._samples = samples
        self.window = skeleton.config.data.sequence_length
        mesh = parallel.mesh
        self._rows = NamedSharding(mesh, PartitionSpec(None, *BATCH))
        replicated = NamedSharding(mesh, PartitionSpec())
        options = compiler_options(platform)
        #: (weights, tokens, last, sampling, held, index) -> ids; compiled when called.
        self.next_token = jax.jit(
            self._next_token, out_shardings=replicated, compiler_options=options
        )

    def stream(
        self, prompt: np.ndarray, max_tokens: int, options: SamplingOptions
    ) -> Iterator[np.ndarray]:
        """Yield one token id per sample, int32 [samples], `max_tokens` times.

        Args:
            prompt: int32 [tokens], at least one; the same for all samples.
            max_tokens: how many tokens to generate.
            options: how to sample; sample i has the seed `options.seed + i`.

        Raises:
            UserError: for an empty prompt or no tokens to generate.
        """
        tokens = token_ids(prompt, self._skeleton.config.model.vocab_size)
        request = GenerationRequest(tokens, options, max_tokens=max_tokens)
        return self._stream(request.tokens, request.max_tokens, options)

    def _stream(
        self, prompt: np.ndarray, max_tokens: int, options: SamplingOptions
    ) -> Iterator[np.ndarray]:
        rows = self._padded_rows()
        text = np.tile(prompt.astype(np.int32), (rows, 1))
        shape = (rows, self._skeleton.config.model.vocab_size)
        in_prompt: Any = np.zeros(shape, bool)
        counts: Any = np.zeros(shape, np.int32)
        in_prompt[:, prompt] = True
        held = Held(in_prompt, counts)
        sampling = stack([replace(options, seed=(options.seed + i) % 2**64) for i in range(rows)])
        for index in range(max_tokens):
            visible = text[:, -self.window :]
            padding = self.window - visible.shape[1]
            tokens = np.pad(visible, ((0, 0), (0, padding)))[None]
            following = np.asarray(
                self.next_token(
                    self._weights,
                    self._on_mesh(tokens),
                    visible.shape[1] - 1,
                    sampling,
                    held,
                    np.full(rows, index, np.int32),
                )
            )
            text = np.concatenate([text, following[:, None]], axis=1)
            counts[np.arange(rows), following] += 1
            yield following[: self._samples]

    def _padded_rows(self) -> int:
        shards = self._parallel.batch_shards
        return -(-self._samples // shards) * shards

    def _on_mesh(self, tokens: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(tokens.shape, self._rows, lambda index: tokens[index])

    def _next_token(
        self,
        weights: Weights,
        tokens: Int[Array, "1 b s"],
        last: Int[Array, ""],
        sampling: SamplingArrays,
        held: Held,
        index_b: Int[Array, " b"],
    ) -> Int[Array, " b"]:
        """Tokens after position `last` are padding, which causal attention does not see."""
        model = self._skeleton.merge(weights)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
        one_document = jnp.ones_like(tokens)
        (x_bsd,), _ = model.hidden(tokens, positions, one_document, self._parallel)
        x_b1d = jax.lax.dynamic_slice_in_dim(x_bsd, last, 1, axis=1)

        # One position cannot be split along the sequence.
        whole = replace(self._parallel.tensor, sequence="whole")
        logits_b1v = run_gathered(
            lambda modules, x: modules[0](x, modules[1], whole),
            self._parallel,
            (model.head, model.embedding),
            x_b1d,
            in_specs=(BATCH,),
            out_specs=PartitionSpec(*BATCH, None, TENSOR),
        )
        # Ids beyond the tokenizer's stay possible here: the caller's decoder ignores them.
        return sample(logits_b1v[:, 0], sampling, held, index_b).ids_b
