"""How answers look on the wire: OpenAI's objects for completions and chats, whole and in parts."""

import abc
import itertools
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moe_jax.inference.contract import Alternatives, Event
from moe_jax.serve.request import ApiRequest, ServedModel

Json = dict[str, Any]


@dataclass
class AnswerChoice:
    """One text so far."""

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    #: Of each token.
    alternatives: list[Alternatives] = field(default_factory=list)
    finish: str = ""
    #: Tokens, those of parts that were sent too.
    generated: int = 0
    #: Characters of the tokens of parts that were sent.
    offset: int = 0

    def add(self, event: Event) -> None:
        """Take in what the engine gave."""
        self.text += event.text
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        self.alternatives += event.alternatives
        self.finish = event.finish
        self.generated += len(event.tokens)

    def sent(self) -> None:
        """Forget what a part has told; the next brings what comes after."""
        self.text, self.tokens, self.logprobs, self.alternatives = "", [], [], []


class Format(abc.ABC):
    """One request's answer; what the two kinds share."""

    prefix: str
    whole_object: str
    part_object: str

    def __init__(self, served: ServedModel, api_request: ApiRequest):
        self._served, self._api_request = served, api_request
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, choices: Sequence[AnswerChoice]) -> Json:
        """Return the answer that comes at once."""
        objects = [self._whole_choice(choice) for choice in choices]
        return self._object(self.whole_object, objects) | {"usage": self.usage(choices)}

    def part(self, choice: AnswerChoice) -> Json:
        """Return one part of a streamed answer: what `choice` gained."""
        return self._part([self._part_choice(choice)])

    def openings(self, choices: Sequence[AnswerChoice]) -> list[Json]:
        """Return the parts of a stream that come before anything is generated."""
        return [self._part([opening]) for c in choices if (opening := self._opening(c))]

    def last(self, choices: Sequence[AnswerChoice]) -> Json:
        """Return the part that tells the usage, after all others."""
        return self._object(self.part_object, []) | {"usage": self.usage(choices)}

    def usage(self, choices: Sequence[AnswerChoice]) -> Json:
        """Return how many tokens were read and generated."""
        prompt = self._api_request.prompt_tokens
        generated = sum(choice.generated for choice in choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }

    def _part(self, choices: list[Json]) -> Json:
        part = self._object(self.part_object, choices)
        return part | {"usage": None} if self._api_request.include_usage else part

    def _object(self, name: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
        }

    def _logprobs(self, choice: AnswerChoice) -> Json | None:
        return self._list_logprobs(choice) if self._api_request.logprobs else None

    def _token(self, token: int) -> str:
        return self._served.tokenizer.name(token)

    @abc.abstractmethod
    def _opening(self, choice: AnswerChoice) -> Json | None: ...

    @abc.abstractmethod
    def _whole_choice(self, choice: AnswerChoice) -> Json: ...

    @abc.abstractmethod
    def _part_choice(self, choice: AnswerChoice) -> Json: ...

    @abc.abstractmethod
    def _list_logprobs(self, choice: AnswerChoice) -> Json: ...


class CompletionFormat(Format):
    """The answer of `/v1/completions`."""

    prefix, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def _opening(self, choice: AnswerChoice) -> Json | None:
        echo = self._api_request.echoes[choice.index]
        return self._choice(choice, echo, None) if echo else None

    def _whole_choice(self, choice: AnswerChoice) -> Json:
        return self._choice(
            choice, self._api_request.echoes[choice.index] + choice.text, choice.finish
        )

    def _part_choice(self, choice: AnswerChoice) -> Json:
        return self._choice(choice, choice.text, choice.finish or None)

    def _choice(self, choice: AnswerChoice, text: str, finish: str | None) -> Json:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(choice),
            "finish_reason": finish,
        }

    def _list_logprobs(self, choice: AnswerChoice) -> Json:
        texts = [self._token(token) for token in choice.tokens]
        *offsets, choice.offset = itertools.accumulate(map(len, texts), initial=choice.offset)
        return {
            "tokens": texts,
            "token_logprobs": choice.logprobs,
            "top_logprobs": self._list_alternatives(choice)
            if self._api_request.alternatives
            else None,
            "text_offset": offsets,
        }

    def _list_alternatives(self, choice: AnswerChoice) -> list[dict[str, float]]:
        """Name the chosen token too, likely or not; of tokens with one text the likelier."""
        listed = []
        places = zip(choice.alternatives, choice.tokens, choice.logprobs, strict=True)
        for alternatives, token, logprob in places:
            named: dict[str, float] = {}
            for one, its_logprob in (*alternatives, (token, logprob)):
                named.setdefault(self._token(one), its_logprob)
            listed.append(named)
        return listed


class ChatFormat(Format):
    """The answer of `/v1/chat/completions`."""

    prefix, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _opening(self, choice: AnswerChoice) -> Json | None:
        return self._delta(choice, {"role": "assistant", "content": ""}, None)

    def _whole_choice(self, choice: AnswerChoice) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish,
        }

    def _part_choice(self, choice: AnswerChoice) -> Json:
        delta = {"content": choice.text} if choice.text else {}
        return self._delta(choice, delta, choice.finish or None)

    def _delta(self, choice: AnswerChoice, delta: Json, finish: str | None) -> Json:
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": self._logprobs(choice) if choice.tokens else None,
            "finish_reason": finish,
        }

    def _list_logprobs(self, choice: AnswerChoice) -> Json:
        places = zip(choice.tokens, choice.logprobs, choice.alternatives, strict=True)
        tokens = [
            self._describe(token, logprob)
            | {"top_logprobs": [self._describe(*one) for one in alternatives]}
            for token, logprob, alternatives in places
        ]
        return {"content": tokens, "refusal": None}

    def _describe(self, token: int, logprob: float) -> Json:
        text = self._token(token)
        # A token may be a part of a character, whose bytes the text does not tell.
        data = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": data}
