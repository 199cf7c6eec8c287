"""From a config to its loaders: reads the text, splits it, packs it.

The parts live in the other files of this package; a run should need only this function.
"""

from typing import NamedTuple

from jax.sharding import NamedSharding

from moe_jax.config.schema import Config
from moe_jax.data.batch import batch_shape
from moe_jax.data.corpus import TokenCorpus, hold_out, tokenize
from moe_jax.data.loader import Dataset, Loader
from moe_jax.data.packing import PackedSequences
from moe_jax.data.sources import check_source, training_documents, validation_documents
from moe_jax.data.synthetic import SyntheticSequences
from moe_jax.data.tokenizers import Tokenizer, load_tokenizer
from moe_jax.errors import UserError


class Loaders(NamedTuple):
    """What a run reads; `validation` is None when nothing is held out."""

    train: Loader
    validation: Loader | None
    tokenizer: Tokenizer


def make_loaders(config: Config, sharding: NamedSharding) -> Loaders:
    """Build the loaders of a run.

    Both give batches of the same shape. Validation walks its sequences in order from step 0 and
    starts over when they run out.

    Args:
        config: the run.
        sharding: of [accumulation, streams, batch, sequence] arrays.

    Raises:
        UserError: text or tokenizer cannot be read, the model has fewer rows than the tokenizer
            has ids, or there is too little text.
    """
    batch_shape(config)
    check_source(config.data)
    tokenizer = load_tokenizer(config.data)
    if config.data.source == "synthetic":
        train, validation = _synthetic(config)
    else:
        check_vocabulary(tokenizer, config)
        train, validation = _packed(config, tokenizer)
    held_out = None if validation is None else Loader(validation, config, sharding)
    return Loaders(Loader(train, config, sharding), held_out, tokenizer)


def check_vocabulary(tokenizer: Tokenizer, config: Config) -> None:
    """Refuse a model without an embedding for every token id."""
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size ({config.model.vocab_size}) is smaller than the vocabulary of "
            f'data.tokenizer "{config.data.tokenizer}" ({tokenizer.vocab_size} ids, end of '
            f"document included): set model.vocab_size to {tokenizer.vocab_size} or more"
        )


def _synthetic(config: Config) -> tuple[Dataset, Dataset | None]:
    def sequences(stream: int) -> Dataset:
        length = config.data.sequence_length
        return SyntheticSequences(config.model.vocab_size, length, config.seed, stream)

    return sequences(0), sequences(1) if config.data.validation_fraction > 0 else None


def _packed(config: Config, tokenizer: Tokenizer) -> tuple[Dataset, Dataset | None]:
    data = config.data
    corpus = tokenize(training_documents(data), tokenizer)
    held_out: TokenCorpus | None = None
    if data.validation_paths:
        held_out = tokenize(validation_documents(data), tokenizer)
    elif data.validation_fraction > 0:
        corpus, held_out = hold_out(corpus, data.validation_fraction)
    length, mask = data.sequence_length, data.document_mask
    train = PackedSequences(corpus, length, config.seed, mask)
    if held_out is None:
        return train, None
    return train, PackedSequences(held_out, length, config.seed, mask, "sequential", "validation")
