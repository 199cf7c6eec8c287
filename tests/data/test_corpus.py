"""Tokenised corpora: content, the held-out split, digests."""

import numpy as np
import pytest

from moe_jax.data import corpus as corpus_module
from moe_jax.data.corpus import hold_out, tokenize
from moe_jax.data.sources import Document
from moe_jax.data.tokenizers import ByteTokenizer


def _corpus(texts: list[str], prefix: str = "f"):
    documents = (Document(f"{prefix}{i}", text) for i, text in enumerate(texts))
    return tokenize(documents, ByteTokenizer())


def _texts(corpus) -> list[str]:
    return [ByteTokenizer().decode(corpus.document(i)) for i in range(len(corpus))]


def test_documents_keep_their_text_and_order_over_chunks(monkeypatch):
    monkeypatch.setattr(corpus_module, "CHUNK_CHARACTERS", 3)
    texts = ["ab", "c", "dééf", "g"]
    assert _texts(_corpus(texts)) == texts


def test_documents_without_a_token_are_left_out():
    assert _texts(_corpus(["a", "", "b"])) == ["a", "b"]


def test_corpus_without_any_token_is_refused():
    with pytest.raises(ValueError, match="no document has a token"):
        _corpus(["", ""])


def test_tokens_of_a_small_vocabulary_take_two_bytes():
    assert _corpus(["a"]).tokens.dtype == np.uint16


def test_split_covers_every_document_once_near_the_fraction():
    texts = [str(i) for i in range(2000)]
    train, held = hold_out(_corpus(texts), 0.1)
    assert sorted(_texts(train) + _texts(held), key=int) == texts
    assert 140 < len(held) < 260


def test_split_of_a_document_does_not_depend_on_the_others():
    _, few = hold_out(_corpus([str(i) for i in range(500)]), 0.1)
    _, many = hold_out(_corpus([str(i) for i in range(900)]), 0.1)
    assert _texts(few) == [text for text in _texts(many) if int(text) < 500]


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 0.999999])
def test_neither_side_of_a_split_is_empty(fraction):
    train, held = hold_out(_corpus(["a", "b"]), fraction)
    assert len(train) == len(held) == 1


def test_end_of_a_single_document_is_held_out():
    train, held = hold_out(_corpus(["0123456789"]), 0.2)
    assert (_texts(train), _texts(held)) == (["01234567"], ["89"])


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_both_parts_of_a_cut_document_have_a_token(fraction):
    train, held = hold_out(_corpus(["ab"]), fraction)
    assert (_texts(train), _texts(held)) == (["a"], ["b"])


def test_single_token_cannot_be_divided():
    with pytest.raises(ValueError, match="single token"):
        hold_out(_corpus(["a"]), 0.5)


def test_digest_sees_content_boundaries_and_order():
    digests = {_corpus(texts).digest() for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["x"])}
    assert len(digests) == 4
    assert _corpus(["ab", "c"]).digest() == _corpus(["ab", "c"], prefix="other").digest()


def test_digest_of_a_part_covers_that_part_only():
    train, held = hold_out(_corpus(["a", "b"]), 0.5)
    assert train.digest() != held.digest()
    assert train.digest() == _corpus(_texts(train)).digest()
