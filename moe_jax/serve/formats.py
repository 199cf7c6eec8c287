"""How answers look on the wire: OpenAI's objects for completions and chats, whole and in parts."""

import abc
import itertools
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moe_jax.inference.batcher import Event
from moe_jax.inference.contract import Alternatives
from moe_jax.serve.request import Job, Served

Json = dict[str, Any]


@dataclass
class Choice:
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
        self.text += event.text
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        self.alternatives += event.alternatives
        self.finish = event.finish
        self.generated += len(event.tokens)

    def sent(self) -> None:
        """Leaves what the next part may bring."""
        self.text, self.tokens, self.logprobs, self.alternatives = "", [], [], []


class Format(abc.ABC):
    """One request's answer; what the two kinds share."""

    prefix: str
    whole_object: str
    part_object: str

    def __init__(self, served: Served, job: Job):
        self._served, self._job = served, job
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, choices: Sequence[Choice]) -> Json:
        """Return the answer that comes at once."""
        made = [self._whole_choice(choice) for choice in choices]
        return self._object(self.whole_object, made) | {"usage": self.usage(choices)}

    def part(self, choice: Choice) -> Json:
        """Return one part of a streamed answer: what `choice` gained."""
        return self._part([self._part_choice(choice)])

    def openings(self, choices: Sequence[Choice]) -> list[Json]:
        """Return the parts of a stream that come before anything is generated."""
        return [self._part([opening]) for c in choices if (opening := self._opening(c))]

    def last(self, choices: Sequence[Choice]) -> Json:
        """Return the part that tells the usage, after all others."""
        return self._object(self.part_object, []) | {"usage": self.usage(choices)}

    def usage(self, choices: Sequence[Choice]) -> Json:
        prompt = self._job.prompt_tokens
        generated = sum(choice.generated for choice in choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }

    def _part(self, choices: list[Json]) -> Json:
        part = self._object(self.part_object, choices)
        return part | {"usage": None} if self._job.include_usage else part

    def _object(self, name: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
        }

    def _logprobs(self, choice: Choice) -> Json | None:
        return self._list_logprobs(choice) if self._job.logprobs else None

    def _token(self, token: int) -> str:
        return self._served.tokenizer.name(token)

    @abc.abstractmethod
    def _opening(self, choice: Choice) -> Json | None: ...

    @abc.abstractmethod
    def _whole_choice(self, choice: Choice) -> Json: ...

    @abc.abstractmethod
    def _part_choice(self, choice: Choice) -> Json: ...

    @abc.abstractmethod
    def _list_logprobs(self, choice: Choice) -> Json: ...


class CompletionFormat(Format):
    prefix, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def _opening(self, choice: Choice) -> Json | None:
        echo = self._job.echoes[choice.index]
        return self._choice(choice, echo, None) if echo else None

    def _whole_choice(self, choice: Choice) -> Json:
        return self._choice(choice, self._job.echoes[choice.index] + choice.text, choice.finish)

    def _part_choice(self, choice: Choice) -> Json:
        return self._choice(choice, choice.text, choice.finish or None)

    def _choice(self, choice: Choice, text: str, finish: str | None) -> Json:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(choice),
            "finish_reason": finish,
        }

    def _list_logprobs(self, choice: Choice) -> Json:
        texts = [self._token(token) for token in choice.tokens]
        *offsets, choice.offset = itertools.accumulate(map(len, texts), initial=choice.offset)
        return {
            "tokens": texts,
            "token_logprobs": choice.logprobs,
            "top_logprobs": self._list_alternatives(choice) if self._job.alternatives else None,
            "text_offset": offsets,
        }

    def _list_alternatives(self, choice: Choice) -> list[dict[str, float]]:
        """The chosen token is named too, likely or not; of tokens with one text the likelier."""
        listed = []
        places = zip(choice.alternatives, choice.tokens, choice.logprobs, strict=True)
        for alternatives, token, logprob in places:
            named: dict[str, float] = {}
            for one, its_logprob in (*alternatives, (token, logprob)):
                named.setdefault(self._token(one), its_logprob)
            listed.append(named)
        return listed


class ChatFormat(Format):
    prefix, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _opening(self, choice: Choice) -> Json | None:
        return self._delta(choice, {"role": "assistant", "content": ""}, None)

    def _whole_choice(self, choice: Choice) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish,
        }

    def _part_choice(self, choice: Choice) -> Json:
        delta = {"content": choice.text} if choice.text else {}
        return self._delta(choice, delta, choice.finish or None)

    def _delta(self, choice: Choice, delta: Json, finish: str | None) -> Json:
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": self._logprobs(choice) if choice.tokens else None,
            "finish_reason": finish,
        }

    def _list_logprobs(self, choice: Choice) -> Json:
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
