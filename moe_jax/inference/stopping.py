"""From tokens to text that can be shown: decoded, and cut where a stop string begins.

When a text ends for other reasons (an end token, its length) is the batcher's business.
"""

from collections.abc import Sequence

from moe_jax.data.tokenizers import StreamDecoder


class StopText:
    """Decodes one text token by token and ends it at the first stop string.

    What might be the beginning of a stop string is held back until it is known not to be one, so
    no part of a stop string is ever shown, however its characters spread over tokens.

    Args:
        decoder: a fresh one.
        stop: strings that end the text; none of them empty.
    """

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str]):
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        #: Whether a stop string came.
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token and return the text that became certain."""
        return self._append(self._decoder.push(token))

    def finish(self) -> str:
        """Return what was held back: no more tokens come. A stop string may still end it."""
        text = self._append(self._decoder.finish())
        rest, self._held = self._held, ""
        return text + rest

    def _append(self, text: str) -> str:
        if self.stopped or not text:
            return ""
        self._held += text
        matches = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        if matches:
            # The one that is complete first: how text is cut into tokens does not matter then.
            _, cut = min(matches)
            self.stopped = True
        else:
            cut = len(self._held) - self._beginning()
        text, self._held = self._held[:cut], "" if self.stopped else self._held[cut:]
        return text

    def _beginning(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(s.startswith(end) for s in self._stop):
                return length
        return 0
