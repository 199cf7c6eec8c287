"""The parameters of a request: which there are, their types, and what is refused by name.

A parameter that would change the answer and is not supported is refused unless it has the value
that changes nothing; ones that no answer depends on are accepted and ignored. What the values
mean for a model is `request.py`.
"""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from moe_jax.errors import UserError
from moe_jax.inference.sampling_options import MAX_TOP_LOGPROBS
from moe_jax.serve.complaints import explain
from moe_jax.serve.errors import invalid

#: What these would do is not implemented; with one of these values, or null, they do nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
#: Who asks, and how it is filed or billed: no answer depends on them.
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
#: OpenAI's limit on stop strings; every one is looked for at every token.
MAX_STOPS = 4
#: OpenAI's limit on the alternatives that a completion names; a chat's is higher.
MAX_COMPLETION_LOGPROBS = 5
#: How JSON names a token, as the key of an object, in one way; no vocabulary has a longer one.
TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")
#: What a template is given anyway, and what Python calls the one who gives it.
TAKEN = frozenset({"messages", "self"})

Count = Annotated[int, Field(ge=1)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[list[str], Field(max_length=MAX_STOPS)]


def drop_nulls(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given; null means that it was not, as OpenAI's own clients send it."""
    return {name: value for name, value in given.items() if value is not None}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    """What a stream says beside its parts."""

    include_usage: bool = False
    #: Padding against observers of traffic: this server sends none.
    include_obfuscation: bool = False


def _biases(given: Any) -> Any:
    if isinstance(given, dict) and all(map(TOKEN_ID.fullmatch, given)):
        return {int(token): bias for token, bias in given.items()}
    raise UserError("must be an object with token ids for its names and numbers for its values")


class SharedParameters(_Strict):
    """What both kinds of request have."""

    model: str
    temperature: Real = 1.0
    top_p: Real = 1.0
    #: 0 and -1 consider all tokens.
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Real = 0.0
    repetition_penalty: Real = 1.0
    frequency_penalty: Real = 0.0
    presence_penalty: Real = 0.0
    logit_bias: Annotated[dict[int, Real], BeforeValidator(_biases)] = {}
    n: Count = 1
    stop: str | Stop = []
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _prompts(prompt: Any) -> list[Any]:
    """Check by hand: a union would complain about each of a million ids, once per member."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(type(part) is int for part in prompt):
            return [prompt]
        if all(isinstance(part, str) for part in prompt):
            return prompt
        if all(isinstance(part, list) and all(type(i) is int for i in part) for part in prompt):
            return prompt
    raise UserError("must be a string, a list of strings, token ids, or a list of lists of those")


class CompletionParameters(SharedParameters):
    """What `/v1/completions` takes."""

    #: Texts, or token ids as they are; one alone is a list of one.
    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(_prompts)]
    echo: bool = False
    #: How many of the most likely tokens to name beside the chosen one.
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    #: Where the text to continue comes from.
    source: ClassVar[str] = "prompt"

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer tells how likely its tokens are."""
        return self.logprobs is not None

    @property
    def alternatives(self) -> int:
        """How many of the most likely tokens to name at each place."""
        return self.logprobs or 0


class TextPart(_Strict):
    """A part of a message; there are no others than text."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """What one participant of a chat said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Clients send back the messages they got, with null for all that these lacked."""
        return drop_nulls(given) if isinstance(given, dict) else given

    @property
    def text(self) -> str:
        """All parts together."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatParameters(SharedParameters):
    """What `/v1/chat/completions` takes."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    #: How many of the most likely tokens to name at each place.
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    #: What else the model's template knows, such as enable_thinking; vLLM's name for it.
    chat_template_kwargs: dict[str, Any] = {}
    #: Where the text to continue comes from.
    source: ClassVar[str] = "messages"

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_free(cls, given: dict[str, Any]) -> dict[str, Any]:
        if TAKEN & given.keys():
            raise UserError(f"must be an object without {' and '.join(sorted(TAKEN))}")
        return given

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer tells how likely its tokens are."""
        return self.logprobs

    @property
    def alternatives(self) -> int:
        """How many of the most likely tokens to name at each place."""
        return self.top_logprobs


Kind = TypeVar("Kind", bound=SharedParameters)


def parse(body: bytes, kind: type[Kind]) -> Kind:
    """Return the parameters that the JSON text of a request holds.

    Args:
        body: UTF-8.
        kind: which request it is.

    Raises:
        ApiError: 400; it names the parameter.
    """
    try:
        given = json.loads(body)
        # \ud800 is half a character: JSON can write it, but neither text nor an answer hold it.
        if b"\\ud" in body.lower():
            json.dumps(given, ensure_ascii=False).encode()
    # Python's own limits on depth and digits end in the other two.
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is no valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise invalid("the body must be a JSON object")
    given = drop_nulls(given)
    for name in sorted(given.keys() - kind.model_fields.keys()):
        _refuse_unless_neutral(name, given.pop(name))
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise explain(error) from None


def _refuse_unless_neutral(name: str, value: Any) -> None:
    if name in IGNORED:
        return
    if name not in NEUTRAL:
        raise invalid(f"{name} is no parameter of this request: remove it", name)
    # True is not 1 here.
    if any(value == neutral and type(value) in (type(neutral), float) for neutral in NEUTRAL[name]):
        return
    allowed = " or ".join(json.dumps(neutral) for neutral in NEUTRAL[name])
    remedy = f"remove it, or set it to {allowed}" if allowed else "remove it"
    raise invalid(f"{name} is not supported: {remedy}", name)
