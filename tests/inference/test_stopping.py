import itertools

import pytest

from moe_jax.data.tokenizers import ByteTokenizer
from moe_jax.inference.stopping import StopText


class Pieces:
    """A decoder whose tokens are places in a list of strings."""

    def __init__(self, pieces):
        self._pieces = pieces

    def push(self, token):
        return self._pieces[token]

    def finish(self):
        return ""


def shown(pieces, stop):
    """Text shown after each piece, and at the end; whether it stopped."""
    text = StopText(Pieces(pieces), stop)
    parts = []
    for token in range(len(pieces)):
        parts.append(text.push(token))
        if text.stopped:
            return parts, True
    return [*parts, text.finish()], text.stopped


def cuts(text):
    """Every way to cut a text into pieces."""
    for count in range(len(text)):
        for places in itertools.combinations(range(1, len(text)), count):
            yield [text[a:b] for a, b in itertools.pairwise((0, *places, len(text)))]


def test_text_without_stop_strings_comes_at_once():
    assert shown(["ab", "c"], ()) == (["ab", "c", ""], False)


def test_a_possible_beginning_is_held_back_and_released():
    assert shown(["a<", "/", "b"], ("</s>",)) == (["a", "", "</b", ""], False)
    assert shown(["a<", "/"], ("</s>",)) == (["a", "", "</"], False)


def test_a_held_back_beginning_may_begin_later():
    assert shown(["aa", "ab", "x"], ("aab",)) == (["", "a"], True)


@pytest.mark.parametrize(
    ("text", "stop", "want"),
    [
        ("one STOP two", ("STOP",), "one "),
        ("abcd", ("bcd", "b"), "a"),
        ("abcd", ("abc", "b"), "a"),
        ("xabcd", ("abcd", "bc"), "xa"),
        ("abab!", ("ab!", "abab!"), ""),
        ("nothing", ("STOP",), "nothing"),
        ("ends in ST", ("STOP",), "ends in ST"),
    ],
)
def test_text_is_cut_alike_however_it_is_cut_into_tokens(text, stop, want):
    for pieces in cuts(text):
        parts, stopped = shown(pieces, stop)
        got = "".join(parts)
        assert got == want, pieces
        assert stopped == (want != text)


def test_a_stop_string_within_the_bytes_of_characters_waits_for_them():
    tokenizer = ByteTokenizer()
    text = StopText(tokenizer.stream_decoder(), ("ü",))
    assert [text.push(token) for token in tokenizer.encode("aüb")[:2]] == ["a", ""]
    assert text.push(tokenizer.encode("ü")[1]) == ""
    assert text.stopped


def test_what_the_decoder_held_back_can_still_complete_a_stop_string():
    tokenizer = ByteTokenizer()
    text = StopText(tokenizer.stream_decoder(), ("\ufffd",))
    assert [text.push(token) for token in (97, 0xC3)] == ["a", ""]
    assert text.finish() == ""
    assert text.stopped
