"""What every tokenizer does: round trips, end tokens, streaming. `tokenizer.json`: see its test."""

from pathlib import Path

import numpy as np
import pytest
from support.tokenizer_files import TEXT, train_tokenizer

from moe_jax.config.schema import DataConfig
from moe_jax.data.tokenizers import ByteTokenizer, HfTokenizer, load_tokenizer


@pytest.fixture(scope="module")
def json_path(tmp_path_factory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(params=["bytes", "tokenizer.json"])
def tokenizer(request, json_path):
    name = "bytes" if request.param == "bytes" else str(json_path)
    return load_tokenizer(DataConfig(tokenizer=name))


def test_text_survives_the_round_trip(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT


def test_end_token_is_in_the_vocabulary_and_leaves_no_text(tokenizer):
    assert 0 <= tokenizer.end_id < tokenizer.vocab_size
    assert tokenizer.end_id not in tokenizer.encode(TEXT)
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.end_id]) == "a"


def test_ids_beyond_the_vocabulary_are_mute(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.vocab_size + 3]) == "a"


def test_streamed_text_equals_the_whole_and_breaks_no_character(tokenizer):
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(int(token)) for token in [*tokenizer.encode(TEXT), tokenizer.end_id]]
    assert "".join(pieces) + decoder.finish() == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(bool(piece) for piece in pieces) > 20


def test_incomplete_character_appears_replaced_at_the_end(tokenizer):
    decoder = tokenizer.stream_decoder()
    start = tokenizer.encode("é")[:1] if tokenizer.vocab_size == 257 else _lead_byte(tokenizer)
    assert [decoder.push(int(token)) for token in start] == [""]
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def _lead_byte(tokenizer: HfTokenizer) -> list[int]:
    # The byte 0xF0 in the alphabet of byte-level BPE.
    return [tokenizer._tokenizer.token_to_id("ð")]


def test_encoding_many_equals_encoding_each(tokenizer):
    texts = [TEXT, "", "x"]
    for many, text in zip(tokenizer.encode_many(texts), texts, strict=True):
        np.testing.assert_array_equal(many, tokenizer.encode(text))


def test_bytes_are_utf8():
    assert ByteTokenizer().encode("é!").tolist() == [0xC3, 0xA9, 0x21]
    assert ByteTokenizer().decode([0x21, 0xC3]) == "!\ufffd"


def test_identity_tells_tokenizers_apart(json_path, tmp_path):
    other = train_tokenizer(tmp_path / "other.json", special=("<eos>",))
    names = [ByteTokenizer().identity, HfTokenizer(json_path).identity, HfTokenizer(other).identity]
    assert len(set(names)) == 3
    assert HfTokenizer(json_path).identity == names[1]


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'gone.json is not a file: give "bytes" or'):
        load_tokenizer(DataConfig(tokenizer=str(tmp_path / "gone.json")))


def test_bytes_are_named_by_their_text():
    assert [ByteTokenizer().name(i) for i in (65, 32, 0xC3, 256)] == ["A", " ", "\ufffd", ""]
