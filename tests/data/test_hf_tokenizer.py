"""A `tokenizer.json`: what it asks for and gets, what is missing in it, and spaces and bytes."""

import re
import sys

import pytest
import tokenizers as hf
from support.tokenizer_files import TEXT, train_tokenizer

from moe_jax.data.hf_tokenizer import HfTokenizer


@pytest.fixture(scope="module")
def json_path(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_truncation_and_padding_of_the_file_are_switched_off(json_path):
    raw = hf.Tokenizer.from_file(str(json_path))
    assert len(raw.encode(TEXT).ids) == 64
    tokenizer = HfTokenizer(json_path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("x")) == 1


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
    path = train_tokenizer(tmp_path / "tokenizer.json", special=("<pad>", token))
    assert HfTokenizer(path).end_id == 1


def test_vocabulary_without_end_token_is_refused(tmp_path):
    path = train_tokenizer(tmp_path / "tokenizer.json", special=("<pad>",))
    with pytest.raises(ValueError, match=r"has no end-of-document token, looked for .*</s>"):
        HfTokenizer(path)


def test_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer.json"):
        HfTokenizer(path)


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
