"""A Hugging Face `tokenizer.json` as a tokenizer of ours.

The files beside it, which say how prompts and chats begin and end, are read by `prompting.py`.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe_jax.data.chat import ChatTemplate, Message
from moe_jax.data.prompting import Prompting, read_prompting
from moe_jax.errors import UserError

#: Tokens that usually end a document, the most specific first.
END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "</s>",
    "<eos>",
    "<|eos|>",
)

#: Tokens of a prompt that tell how its continuation is decoded: among them one that is text.
PROMPT_CONTEXT = 6


class HfTokenizer:
    """A Hugging Face `tokenizer.json`; needs the `hf` extra.

    Prompts, chats and what ends an answer follow the files beside it, read when first needed.
    Truncation and padding that the file asks for are switched off: a document is encoded whole.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).expanduser()
        self._tokenizer = _load_hf(self._path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        # Ids may have gaps, so the number of entries would be too small.
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.end_id = self._find_end_id(vocabulary)
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        self.identity = f"tokenizer.json sha256 {digest[:16]}"

    @functools.cached_property
    def prompting(self) -> Prompting:
        """What the files beside the tokenizer say."""
        return read_prompting(self._path.parent)

    @property
    def chat(self) -> ChatTemplate | None:
        """The template of chats; None for a model that was not tuned to chat."""
        return self.prompting.chat

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer: those of the files, or the end of a document."""
        return self.prompting.end_ids or frozenset({self.end_id})

    def encode(self, text: str) -> np.ndarray:
        """Return token ids, int32, without any special token."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text, in the library's threads."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def encode_prompt(self, text: str) -> np.ndarray:
        """Return what `tokenizer(text).input_ids` of `transformers` is: with what begins texts."""
        ids = self._tokenizer.encode(text, add_special_tokens=True).ids
        # What follows an end of document is a beginning.
        return np.asarray(ids or [self.end_id], np.int32)

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> np.ndarray:
        """Return the token ids of a conversation, up to where the answer begins.

        Args:
            messages: each with `role` and `content`.
            **variables: what else the chat template knows.

        Raises:
            UserError: there is no chat template, or it refuses the messages.
        """
        if self.chat is None:
            raise UserError(
                f"{self._path.parent} has no chat template (chat_template in "
                "tokenizer_config.json, or chat_template.jinja): give a prompt, or a model "
                "that was tuned to chat"
            )
        # The template writes the special tokens that begin a text.
        return self.encode(self.chat.render(messages, **variables))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without special tokens and ids that the tokenizer lacks."""
        return self._decode(ids, skip=True)

    def _decode(self, ids: Iterable[int], *, skip: bool) -> str:
        # Models may have more rows than the tokenizer has ids; those rows mean nothing.
        known = [int(i) for i in ids if i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=skip)

    def name(self, token: int) -> str:
        """Return what a token adds to a text that goes on; special ones have names too."""
        # A decoder that strips the space which begins a text leaves that of a second token.
        once, twice = (self._decode([token] * count, skip=False) for count in (1, 2))
        return twice[len(once) :]

    def stream_decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> "HfStreamDecoder":
        """Return a fresh decoder of a text that follows `prompt`."""
        return HfStreamDecoder(self, prompt)

    def _find_end_id(self, vocabulary: dict[str, int]) -> int:
        for token in END_TOKENS:
            if token in vocabulary:
                return vocabulary[token]
        named = self.prompting.special_tokens.get("eos_token")
        if named in vocabulary:
            return vocabulary[named]
        raise UserError(
            f"data.tokenizer: {self._path} has no end-of-document token, looked for "
            f"{', '.join(END_TOKENS)} and eos_token of tokenizer_config.json: add one of them to "
            "its added_tokens"
        )


class HfStreamDecoder:
    """Emits the growth of the decoded text, and only once its last character is whole.

    The few tokens before the new ones, at first the last of the prompt, are decoded along with
    them, because decoders such as Metaspace treat the first token of a text differently.
    """

    def __init__(self, tokenizer: HfTokenizer, prompt: Sequence[int] | np.ndarray = ()) -> None:
        self._tokenizer = tokenizer
        last = [int(token) for token in prompt[-PROMPT_CONTEXT:]]
        # A character that the prompt breaks off is the text's to finish.
        self._context: list[int] = [] if tokenizer.decode(last).endswith("\ufffd") else last
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Take one token and return what it adds, once no character of it is broken."""
        self._pending.append(int(token))
        text = self._growth()
        if not text or text.endswith("\ufffd"):
            return ""
        self._context, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """Return what was held back."""
        text = self._growth()
        self._context, self._pending = self._pending, []
        return text

    def _growth(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]


def _load_hf(path: Path) -> Any:
    if not path.is_file():
        raise UserError(
            f'data.tokenizer: {path} is not a file: give "bytes" or the path of a tokenizer.json'
        )
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"data.tokenizer: reading {path} needs tokenizers: pip install moe-jax[hf]"
        ) from error
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"data.tokenizer: {path} is not a tokenizer.json: {error}") from error
