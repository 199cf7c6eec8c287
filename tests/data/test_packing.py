"""Packing against a naive implementation, coverage of an epoch, determinism."""

import threading

import numpy as np
import pytest

from moe_jax.data.corpus import TokenCorpus
from moe_jax.data.packing import PackedSequences, permutation

END = 999


def _corpus(documents: list[list[int]]) -> TokenCorpus:
    lengths = np.array([len(d) for d in documents], np.int64)
    return TokenCorpus(
        tokens=np.concatenate([np.array(d, np.int32) for d in documents]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        keys=np.arange(len(documents), dtype=np.uint64),
        end_id=END,
        tokenizer="test",
    )


def _random_documents(rng: np.random.Generator) -> list[list[int]]:
    count = int(rng.integers(1, 9))
    return [rng.integers(0, 99, rng.integers(1, 12)).tolist() for _ in range(count)]


def _naive_windows(documents, order, s):
    """The definition: concatenate, cut, number documents from 1 in each window."""
    stream = [(t, place) for place, d in enumerate(order) for t in [*documents[d], END]]
    for start in range(0, len(stream) - s, s):
        window = stream[start : start + s + 1]
        first = window[0][1]
        yield [t for t, _ in window], [place - first + 1 for _, place in window]


def test_every_window_of_random_corpora_equals_the_naive_packing():
    rng = np.random.default_rng(0)
    checked = 0
    for trial in range(60):
        documents = _random_documents(rng)
        s = int(rng.integers(1, 10))
        if sum(len(d) + 1 for d in documents) <= s:
            continue
        packed = PackedSequences(_corpus(documents), s, seed=trial)
        for epoch in (0, 1, 5):
            order = permutation(len(documents), trial, epoch, 0)
            naive = list(_naive_windows(documents, order, s))
            assert len(packed) == len(naive)
            for place, window in enumerate(permutation(len(naive), trial, epoch, 1)):
                tokens, segments = packed.sequence(epoch * len(packed) + place)
                assert (tokens.tolist(), segments.tolist()) == naive[window]
                checked += 1
    assert checked > 500


def test_every_token_but_the_first_and_the_rest_is_a_target_once_per_epoch():
    documents = [list(range(i * 10, i * 10 + 3 + i)) for i in range(6)]
    packed = PackedSequences(_corpus(documents), 4, seed=3)
    for epoch in range(3):
        indices = range(epoch * len(packed), (epoch + 1) * len(packed))
        targets = [t for i in indices for t in packed.example(i).targets.tolist()]
        words = [t for t in targets if t != END]
        assert len(set(words)) == len(words)
        total = sum(len(d) + 1 for d in documents)
        assert total - 1 - 4 < len(targets) <= total - 1


def test_sequential_order_is_the_same_in_every_epoch():
    documents = [[1, 2, 3], [4, 5], [6]]
    packed = PackedSequences(_corpus(documents), 2, seed=0, order="sequential")
    expected = [tokens for tokens, _ in _naive_windows(documents, range(3), 2)]
    assert expected == [[1, 2, 3], [3, END, 4], [4, 5, END], [END, 6, END]]
    assert [packed.sequence(i)[0].tolist() for i in range(8)] == expected * 2


def test_content_depends_on_seed_and_epoch_only():
    corpus = _corpus([[i] * 7 for i in range(40)])

    def contents(seed: int, epoch: int) -> list[list[int]]:
        packed = PackedSequences(corpus, 16, seed)
        first = epoch * len(packed)
        return [packed.sequence(first + i)[0].tolist() for i in range(len(packed))]

    assert contents(1, 2) == contents(1, 2)
    assert contents(1, 2) != contents(1, 3)
    assert contents(1, 2) != contents(2, 2)


def test_permutations_never_change_between_releases():
    assert permutation(8, 0, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert sorted(permutation(100, 5, 1).tolist()) == list(range(100))


def test_random_access_from_threads_equals_one_thread():
    corpus = _corpus([[i] * (i % 5 + 1) for i in range(50)])
    reference = PackedSequences(corpus, 3, seed=0)
    expected = [reference.sequence(i)[0].tolist() for i in range(400)]
    packed = PackedSequences(corpus, 3, seed=0)
    results: dict[int, list[int]] = {}

    def read(offset: int) -> None:
        for i in range(offset, 400, 4):
            results[i] = packed.sequence(i)[0].tolist()

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(400)] == expected


def test_corpus_shorter_than_a_window_is_refused_and_one_window_is_enough():
    with pytest.raises(ValueError, match=r"has 4 tokens in 1 documents, one sequence needs 5"):
        PackedSequences(_corpus([[1, 2, 3]]), 4, seed=0)
    assert PackedSequences(_corpus([[1, 2, 3]]), 3, seed=0).sequence(0)[0].tolist() == [
        1,
        2,
        3,
        END,
    ]


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="sequence index -1 is negative"):
        PackedSequences(_corpus([[1, 2, 3]]), 2, seed=0).sequence(-1)


def test_fingerprint_changes_with_text_length_and_seed():
    def fingerprint(word: int = 1, length: int = 2, seed: int = 0):
        return PackedSequences(_corpus([[word, 2, 3]]), length, seed).fingerprint()

    assert fingerprint() == fingerprint()
    for change in ({"word": 9}, {"length": 3}, {"seed": 1}):
        assert fingerprint(**change) != fingerprint()
