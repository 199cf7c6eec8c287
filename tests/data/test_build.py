"""From a config to loaders, with every source."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import Config, DataConfig, TrainConfig
from moe_jax.data import build
from moe_jax.data.build import make_loaders
from moe_jax.data.sources import stdlib_documents


@pytest.fixture(scope="module")
def sharding() -> NamedSharding:
    mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 1, 4, 1), AXES)
    return NamedSharding(mesh, PartitionSpec(None, None, BATCH_AXES, None))


def _config(vocab_size: int = 264, seed: int = 0, **data) -> Config:
    return Config(
        seed=seed,
        data=DataConfig(**{"sequence_length": 32, "source": "files", **data}),
        model=ModelConfig(vocab_size=vocab_size),
        train=TrainConfig(global_batch=8),
    )


def _text_files(folder: Path, count: int = 30) -> tuple[str, ...]:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.txt").write_text(f"document {i} " * 20)
    return (str(folder),)


def test_standard_library_trains_and_validates_without_any_file(sharding):
    train, validation, tokenizer = make_loaders(_config(source="stdlib"), sharding)
    assert train(0).tokens.shape == validation(0).tokens.shape == (1, 1, 8, 32)
    library = "".join(document.text for document in stdlib_documents())
    rows = [tokenizer.decode(row.tolist()) for row in np.asarray(train(0).tokens).reshape(-1, 32)]
    # The others go from one file into the next, or cut a character.
    assert sum(row in library for row in rows) > len(rows) / 2
    assert 0.005 < len(validation.dataset) / len(train.dataset) < 0.2


def test_same_config_gives_the_same_batches_and_another_seed_others(sharding, tmp_path):
    paths = _text_files(tmp_path / "d")
    tokens = [
        np.asarray(make_loaders(_config(paths=paths, seed=seed), sharding).train(2).tokens)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).any()


def test_validation_walks_in_order_and_starts_over(sharding, tmp_path):
    (tmp_path / "v.txt").write_text("".join(chr(97 + i % 26) for i in range(256)))
    paths = _text_files(tmp_path / "d")
    config = _config(paths=paths, validation_paths=(str(tmp_path / "v.txt"),))
    loader = make_loaders(config, sharding).validation
    assert len(loader.dataset) == 8
    first = np.asarray(loader(0).tokens)
    assert first[0, 0].ravel().tolist() == [97 + i % 26 for i in range(256)]
    np.testing.assert_array_equal(first, np.asarray(loader(1).tokens))


def test_held_out_text_is_never_trained_on(sharding, tmp_path):
    config = _config(paths=_text_files(tmp_path / "d"), validation_fraction=0.3)
    train, validation, _ = make_loaders(config, sharding)
    held = {validation.dataset.corpus.document(i).tobytes() for i in range(3)}
    corpus = train.dataset.corpus
    assert not held & {corpus.document(i).tobytes() for i in range(len(corpus))}


def test_no_fraction_means_no_validation(sharding, tmp_path):
    config = _config(paths=_text_files(tmp_path / "d"), validation_fraction=0.0)
    assert make_loaders(config, sharding).validation is None
    config = _config(source="synthetic", validation_fraction=0.0)
    assert make_loaders(config, sharding).validation is None


def test_synthetic_ids_fill_the_model_vocabulary_whatever_the_tokenizer(sharding):
    train, validation, _ = make_loaders(_config(vocab_size=40, source="synthetic"), sharding)
    tokens = np.asarray(train(0).tokens)
    assert tokens.max() == 39
    assert (tokens != np.asarray(validation(0).tokens)).any()


def test_document_mask_reaches_the_batch(sharding, tmp_path):
    paths = _text_files(tmp_path / "d")
    masked = make_loaders(_config(paths=paths), sharding).train(0)
    open_ = make_loaders(_config(paths=paths, document_mask="none"), sharding).train(0)
    assert np.asarray(masked.segments).max() == 2
    assert np.asarray(masked.weights).min() == 0
    assert np.asarray(open_.segments).max() == 1
    assert np.asarray(open_.weights).min() == 1


def test_tokenizer_larger_than_the_model_is_refused_before_any_text_is_read(sharding, monkeypatch):
    monkeypatch.setattr(build, "training_documents", lambda data: pytest.fail("text was read"))
    with pytest.raises(ValueError, match=r"model.vocab_size \(256\) is smaller .*257 ids"):
        make_loaders(_config(vocab_size=256, source="stdlib"), sharding)


def test_too_little_validation_text_is_named(sharding, tmp_path):
    (tmp_path / "v.txt").write_text("short")
    config = _config(paths=_text_files(tmp_path / "d"), validation_paths=(str(tmp_path / "v.txt"),))
    with pytest.raises(ValueError, match="the validation text has 6 tokens in 1 documents"):
        make_loaders(config, sharding)


def test_bad_file_reaches_the_user(sharding, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\nbroken\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2, column 1: not valid JSON"):
        make_loaders(_config(paths=(str(tmp_path),)), sharding)
