"""Tokenizers: round trips, end tokens, streaming, and files that are none."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers as hf
from support.chat_files import byte_level

from moe_jax.config.schema import DataConfig
from moe_jax.data.tokenizers import ByteTokenizer, HfTokenizer, load_tokenizer

TEXT = "def straße(x):\n    return '日本語 🙂' + x  # naïve\n" * 3


def _train(path: Path, special: tuple[str, ...] = ("<pad>", "</s>")) -> Path:
    tokenizer = byte_level(begins=False, text=TEXT, special=special)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def json_path(tmp_path_factory) -> Path:
    return _train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


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


def test_truncation_and_padding_of_the_file_are_switched_off(json_path):
    raw = hf.Tokenizer.from_file(str(json_path))
    assert len(raw.encode(TEXT).ids) == 64
    tokenizer = HfTokenizer(json_path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("x")) == 1


def test_identity_tells_tokenizers_apart(json_path, tmp_path):
    other = _train(tmp_path / "other.json", special=("<eos>",))
    names = [ByteTokenizer().identity, HfTokenizer(json_path).identity, HfTokenizer(other).identity]
    assert len(set(names)) == 3
    assert HfTokenizer(json_path).identity == names[1]


@pytest.mark.parametrize(
    "token",
    [
        "</s>",
        "<|endoftext|>",
        "<eos>",
        "<|end_of_text|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
)
def test_usual_end_tokens_are_found(tmp_path, token):
    path = _train(tmp_path / "tokenizer.json", special=("<pad>", token))
    assert HfTokenizer(path).end_id == 1


def test_vocabulary_without_end_token_is_refused(tmp_path):
    path = _train(tmp_path / "tokenizer.json", special=("<pad>",))
    with pytest.raises(ValueError, match=r"has no end-of-document token, looked for .*</s>"):
        HfTokenizer(path)


def test_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer.json"):
        HfTokenizer(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'gone.json is not a file: give "bytes" or'):
        load_tokenizer(DataConfig(tokenizer=str(tmp_path / "gone.json")))


def test_missing_library_names_the_extra(json_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=re.escape("pip install moe-jax[hf]")):
        HfTokenizer(json_path)


WORDS = ("<unk>", "</s>", "\u2581the", "the", "\u2581a", "<0xC3>", "<0xBC>")


@pytest.fixture
def pieces(tmp_path):
    """A tokenizer whose decoder takes off the space that begins a text, as Llama's and Mistral's
    do; a token for each of `WORDS`."""
    tokenizer = hf.Tokenizer(hf.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    steps = (
        hf.decoders.Replace("\u2581", " "),
        hf.decoders.ByteFallback(),
        hf.decoders.Fuse(),
        hf.decoders.Strip(" ", 1, 0),
    )
    tokenizer.decoder = hf.decoders.Sequence([*steps])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return HfTokenizer(tmp_path / "tokenizer.json")


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def streamed(tokenizer, prompt: list[int], *words: str) -> str:
    decoder = tokenizer.stream_decoder(prompt)
    return "".join([decoder.push(i) for i in ids(*words)]) + decoder.finish()


def test_a_continuation_keeps_the_space_that_would_begin_a_text(pieces):
    assert pieces.decode(ids("\u2581the", "\u2581a")) == "the a"
    assert streamed(pieces, ids("\u2581a"), "\u2581the", "\u2581a") == " the a"
    assert streamed(pieces, ids(*["the"] * 20), "\u2581the") == " the"
    # Where nothing precedes it, the text begins there.
    assert streamed(pieces, [], "\u2581the", "\u2581a") == "the a"
    assert streamed(pieces, ids("</s>"), "\u2581the", "\u2581a") == "the a"


def test_a_character_that_a_prompt_breaks_off_is_left_to_it(pieces):
    assert streamed(pieces, ids("\u2581a", "<0xC3>"), "<0xBC>", "the") == "\ufffdthe"
    assert streamed(pieces, ids("\u2581a"), "<0xC3>", "<0xBC>", "the") == "\u00fcthe"


def test_tokens_have_names_of_their_own(pieces):
    names = [pieces.name(i) for i in range(len(WORDS))]
    assert names == ["<unk>", "</s>", " the", "the", " a", "\ufffd", "\ufffd"]
    # A row of the model for which the tokenizer has no token.
    assert pieces.name(100) == ""


def test_bytes_are_named_by_their_text():
    assert [ByteTokenizer().name(i) for i in (65, 32, 0xC3, 256)] == ["A", " ", "\ufffd", ""]
