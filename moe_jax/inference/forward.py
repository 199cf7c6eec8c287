"""A forward pass over whole texts: logits, and how likely each token was. No cache, no sampling.

Continuing texts is `engine.py`; which text is seen by which pass is the caller's business.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from moe_jax.axes import TENSOR
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.loss import cross_entropy_sum
from moe_jax.model.transformer import Transformer
from moe_jax.model.unit import Streams
from moe_jax.model.weights import Weights
from moe_jax.session import Session
from moe_jax.sharding.regions import run_gathered
from moe_jax.sharding.rules import BATCH

#: Texts are padded to a multiple of this: each length compiles anew.
STEP = 64


class Forward:
    """The forward pass of a model on its mesh; compiles for each shape.

    Args:
        session: the model and its mesh; texts are read as one stream.
        weights: the model's values.
    """

    def __init__(self, session: Session, weights: Weights):
        self._session, self._weights = session, weights
        self._rows = NamedSharding(session.mesh, PartitionSpec(None, *BATCH))
        replicated = NamedSharding(session.mesh, PartitionSpec())
        options = compiler_options(session.platform)

        def jit(function: Any) -> Any:
            return jax.jit(function, out_shardings=replicated, compiler_options=options)

        self._jit_logits, self._jit_loss = jit(self._logits), jit(self._loss)
        self._jit_logprobs = jit(self._logprobs)

    @property
    def rows(self) -> int:
        """How many texts are read at a time without waste."""
        return self._session.parallel.batch_shards

    def logits(self, tokens_bs: np.ndarray) -> np.ndarray:
        """Return float32 [b, s, v]: at each position the logits of the token that follows.

        Args:
            tokens_bs: int32; what comes later does not change what comes before.
        """
        rows, length = tokens_bs.shape
        logits = self._jit_logits(self._weights, self._put(tokens_bs))
        return np.asarray(logits)[:rows, :length]

    def logprobs(self, tokens_bs: np.ndarray) -> np.ndarray:
        """Return float32 [b, s - 1]: of each token but the first given those before, in nats."""
        rows, length = tokens_bs.shape
        targets = np.roll(tokens_bs, -1, axis=1)
        logprobs = self._jit_logprobs(self._weights, self._put(tokens_bs), self._put(targets))
        return np.asarray(logprobs)[:rows, : length - 1]

    def loss(self, tokens_bs: np.ndarray, targets_bs: np.ndarray, weights_bs: np.ndarray) -> float:
        """Return the sum of weights * -log p(target), in nats; all logits are never there at once.

        Args:
            tokens_bs: int32.
            targets_bs: int32, what follows each token.
            weights_bs: float32; 0 leaves a target out.
        """
        arrays = (self._put(array) for array in (tokens_bs, targets_bs, weights_bs))
        return float(self._jit_loss(self._weights, *arrays))

    def _put(self, array_bs: np.ndarray) -> jax.Array:
        """Return an array on the mesh as the one stream, padded with zeros."""
        rows, length = array_bs.shape
        unit = np.lcm(STEP, self._session.config.mesh.tensor)
        padding = ((0, -rows % self.rows), (0, -length % int(unit)))
        padded = np.pad(array_bs, padding)[None]
        return jax.make_array_from_callback(padded.shape, self._rows, lambda index: padded[index])

    def _hidden(self, weights: Weights, tokens: Int[Array, "1 b s"]) -> tuple[Transformer, Streams]:
        model = self._session.skeleton.merge(weights)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
        return model, model.hidden(
            tokens, positions, jnp.ones_like(tokens), self._session.parallel
        )[0]

    def _logits(self, weights: Weights, tokens: Int[Array, "1 b s"]) -> Float[Array, "b s v"]:
        model, (x_bsd,) = self._hidden(weights, tokens)
        parallel = self._session.parallel
        return run_gathered(
            lambda modules, x: modules[0](x, modules[1], parallel.tensor),
            parallel,
            (model.head, model.embedding),
            x_bsd,
            in_specs=(parallel.activations,),
            out_specs=PartitionSpec(*BATCH, None, TENSOR),
        ).astype(jnp.float32)

    def _logprobs(
        self,
        weights: Weights,
        tokens: Int[Array, "1 b s"],
        targets: Int[Array, "1 b s"],
    ) -> Float[Array, "b s"]:
        logits_bsv = self._logits(weights, tokens)
        picked = jnp.take_along_axis(logits_bsv, targets[0][..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(logits_bsv, axis=-1)

    def _loss(
        self,
        weights: Weights,
        tokens: Int[Array, "1 b s"],
        targets: Int[Array, "1 b s"],
        scales: Float[Array, "1 b s"],
    ) -> Float[Array, ""]:
        model, streams = self._hidden(weights, tokens)
        chunk = self._session.config.train.loss_chunk
        return cross_entropy_sum(model, streams, targets, scales, self._session.parallel, chunk)
