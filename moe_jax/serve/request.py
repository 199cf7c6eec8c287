"""From the parameters of a request to what the batcher takes, by the model that is served.

Here every prompt that comes by HTTP is checked, once: the rules are `inference/checks.py`'s, and
here a broken one becomes an answer that names the parameter.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moe_jax.data.tokenizers import Tokenizer
from moe_jax.errors import UserError
from moe_jax.inference.checks import check_answer, check_bias, check_fits, token_ids
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.sampling_options import SEEDS, SamplingOptions, sample_options
from moe_jax.serve.errors import ApiError, invalid
from moe_jax.serve.parameters import ChatParameters, CompletionParameters, SharedParameters

#: What OpenAI's completions generate unless told otherwise.
DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True)
class ServedModel:
    """The model that is served, as far as requests need to know it."""

    name: str
    #: When it was made or loaded, in seconds since 1970.
    created: int
    #: Tokens of a request, prompt and answer together, at most.
    context: int
    #: Ids of tokens that it knows; the tokenizer may know more.
    vocab_size: int
    tokenizer: Tokenizer


@dataclass(frozen=True)
class ApiRequest:
    """What one HTTP request asks for: texts, and how to answer with them."""

    #: One for each choice, in their order.
    texts: tuple[GenerationRequest, ...]
    #: What each choice begins with before anything is generated.
    echoes: tuple[str, ...]
    #: Of all prompts, each counted once.
    prompt_tokens: int
    stream: bool
    include_usage: bool
    logprobs: bool
    #: Tokens to name beside each chosen one.
    alternatives: int


class RequestBuilder:
    """Turns the parameters of requests for one model into `ApiRequest`s.

    Args:
        served: the model.
        max_tokens: tokens that may be generated per text, at most.
        max_texts: texts that one request may ask for.
    """

    def __init__(self, served: ServedModel, *, max_tokens: int, max_texts: int):
        self._served, self._max_tokens, self._max_texts = served, max_tokens, max_texts

    def completion(self, params: CompletionParameters) -> ApiRequest:
        """Return what a `/v1/completions` asks for.

        Args:
            params: of its body.

        Raises:
            ApiError: for what the model or this server cannot do.
        """
        self._check_model(params)
        if params.echo and params.logprobs is not None:
            raise invalid("echo with logprobs is not supported: drop one of them", "echo")
        encode = self._served.tokenizer.encode_prompt
        prompts = [
            self._checked(params, encode(prompt) if isinstance(prompt, str) else prompt)
            for prompt in params.prompt
        ]
        echoes = [self._text(p) for p in params.prompt] if params.echo else [""] * len(prompts)
        return self._build(params, prompts, echoes, params.max_tokens, DEFAULT_MAX_TOKENS)

    def chat(self, params: ChatParameters) -> ApiRequest:
        """Return what a `/v1/chat/completions` asks for.

        Args:
            params: of its body.

        Raises:
            ApiError: for what the model or this server cannot do.
        """
        self._check_model(params)
        if params.top_logprobs and not params.logprobs:
            raise invalid(
                f"top_logprobs ({params.top_logprobs}) without logprobs: set logprobs to true",
                "top_logprobs",
            )
        messages = [
            {"role": m.role, "content": m.text} | ({"name": m.name} if m.name else {})
            for m in params.messages
        ]
        try:
            prompt = self._served.tokenizer.encode_chat(messages, **params.chat_template_kwargs)
        except UserError as error:
            # What a template says itself comes without the path of its file.
            raise invalid(f"messages: {error.__cause__ or error}", "messages") from None
        wanted = _one_of(params.max_completion_tokens, params.max_tokens)
        prompts = [self._checked(params, prompt)]
        return self._build(params, prompts, [""], wanted, self._max_tokens)

    def _build(
        self,
        params: CompletionParameters | ChatParameters,
        prompts: Sequence[np.ndarray],
        echoes: Sequence[str],
        wanted: int | None,
        default: int,
    ) -> ApiRequest:
        count = len(prompts) * params.n
        if count > self._max_texts:
            raise invalid(
                f"{count} texts (prompts x n) are more than this server holds at a time, "
                f"{self._max_texts}: ask for fewer",
                "n",
            )
        limits = [self._limit(params, prompt.size, wanted, default) for prompt in prompts]
        samples = _samples(params, self._served.vocab_size)
        texts = [
            self._text_to_continue(params, prompt, limit, sample)
            for prompt, limit in zip(prompts, limits, strict=True)
            for sample in samples
        ]
        return ApiRequest(
            tuple(texts),
            tuple(echo for echo in echoes for _ in samples),
            sum(prompt.size for prompt in prompts),
            params.stream,
            _include_usage(params),
            params.wants_logprobs,
            params.alternatives,
        )

    def _text_to_continue(
        self, params: SharedParameters, prompt: np.ndarray, limit: int, sample: SamplingOptions
    ) -> GenerationRequest:
        ends = self._served.tokenizer.end_ids
        with _blaming("stop"):
            return GenerationRequest(
                prompt, sample, max_tokens=limit, stop=params.stops, end_ids=ends
            )

    def _check_model(self, params: SharedParameters) -> None:
        if params.model != self._served.name:
            raise unknown_model(params.model, self._served.name)

    def _checked(
        self, params: CompletionParameters | ChatParameters, tokens: np.ndarray | list[int]
    ) -> np.ndarray:
        with _blaming(params.source):
            return token_ids(tokens, self._served.vocab_size)

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._served.tokenizer.decode(prompt)

    def _limit(
        self,
        params: CompletionParameters | ChatParameters,
        length: int,
        wanted: int | None,
        default: int,
    ) -> int:
        """Return how many tokens may follow a prompt of `length` tokens."""
        context, most = self._served.context, self._max_tokens
        with _blaming(params.source):
            check_fits(length, context)
        if wanted is None:
            return min(default, most, context - length)
        with _blaming("max_tokens"):
            check_answer(wanted, length, context, most)
        return wanted


@contextlib.contextmanager
def _blaming(param: str) -> Iterator[None]:
    """Answer a client's mistake with the parameter that has it."""
    try:
        yield
    except UserError as error:
        raise invalid(str(error), param) from None


def unknown_model(asked: str, served: str) -> ApiError:
    """Return the refusal of a request for another model.

    Args:
        asked: name of the model that was asked for.
        served: name of the one that is here.
    """
    return ApiError(
        404,
        f"there is no model {asked!r} here: this server has {served!r}",
        param="model",
        code="model_not_found",
    )


def _samples(
    params: CompletionParameters | ChatParameters, vocab_size: int
) -> list[SamplingOptions]:
    """Each choice draws from a seed of its own; the first has the one that was asked for."""
    seed = secrets.randbelow(SEEDS) if params.seed is None else params.seed
    try:
        first = SamplingOptions(
            temperature=params.temperature,
            # More than all is all, and fits the sampler's integers.
            top_k=min(max(params.top_k, 0), vocab_size),
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            logit_bias=tuple(params.logit_bias.items()),
            top_logprobs=params.alternatives,
            seed=seed % SEEDS,
        )
        check_bias(first, vocab_size)
    except UserError as error:
        # Such a message begins with the option's name, which is the parameter's.
        raise invalid(str(error), str(error).split(" ", 1)[0]) from None
    return sample_options(first, params.n)


def _one_of(new: int | None, old: int | None) -> int | None:
    if None not in (new, old) and new != old:
        raise invalid(
            f"max_completion_tokens ({new}) and max_tokens ({old}) differ: set one of them",
            "max_tokens",
        )
    return new if old is None else old


def _include_usage(params: SharedParameters) -> bool:
    if params.stream_options is None:
        return False
    if not params.stream:
        raise invalid("stream_options without stream: set stream to true", "stream_options")
    return params.stream_options.include_usage
