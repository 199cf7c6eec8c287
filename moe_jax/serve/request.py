"""From the parameters of a request to what the batcher takes, by the model that is served."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_jax.data.tokenizers import Tokenizer
from moe_jax.inference.batcher import Request
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.serve.errors import ApiError, invalid
from moe_jax.serve.parameters import ChatParameters, CompletionParameters, Parameters

#: What OpenAI's completions generate unless told otherwise.
DEFAULT_MAX_TOKENS = 16
#: Seeds are 64 bits wide here and in OpenAI's API, where they are signed.
SEEDS = 2**64


@dataclass(frozen=True)
class Served:
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
class Job:
    """What one HTTP request asks for."""

    #: One for each choice, in their order.
    requests: tuple[Request, ...]
    #: What each choice begins with before anything is generated.
    echoes: tuple[str, ...]
    #: Of all prompts, each counted once.
    prompt_tokens: int
    stream: bool
    include_usage: bool
    logprobs: bool
    #: Tokens to name beside each chosen one.
    alternatives: int


class Jobs:
    """Builds jobs for one model.

    Args:
        served: the model.
        max_tokens: tokens that may be generated per text, at most.
        max_texts: texts that one request may ask for.
    """

    def __init__(self, served: Served, *, max_tokens: int, max_texts: int):
        self._served, self._max_tokens, self._max_texts = served, max_tokens, max_texts

    def completion(self, params: CompletionParameters) -> Job:
        """Return the job of a `/v1/completions`.

        Raises:
            ApiError: for what the model or this server cannot do.
        """
        self._check_model(params)
        if params.echo and params.logprobs is not None:
            raise invalid("echo with logprobs is not supported: drop one of them", "echo")
        prompts = [self._tokens(prompt) for prompt in params.prompt]
        echoes = [self._text(p) for p in params.prompt] if params.echo else [""] * len(prompts)
        return self._job(params, prompts, echoes, params.max_tokens, DEFAULT_MAX_TOKENS)

    def chat(self, params: ChatParameters) -> Job:
        """Return the job of a `/v1/chat/completions`.

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
        return self._job(params, [prompt], [""], wanted, self._max_tokens)

    def _job(
        self,
        params: CompletionParameters | ChatParameters,
        prompts: Sequence[np.ndarray],
        echoes: Sequence[str],
        wanted: int | None,
        default: int,
    ) -> Job:
        count = len(prompts) * params.n
        if count > self._max_texts:
            raise invalid(
                f"{count} texts (prompts x n) are more than this server holds at a time, "
                f"{self._max_texts}: ask for fewer",
                "n",
            )
        limits = [self._limit(prompt.size, params.source, wanted, default) for prompt in prompts]
        samplings = _samplings(params, self._served.vocab_size)
        self._check_bias(params)
        requests = [
            self._request(params, prompt, limit, sampling)
            for prompt, limit in zip(prompts, limits, strict=True)
            for sampling in samplings
        ]
        return Job(
            tuple(requests),
            tuple(echo for echo in echoes for _ in range(params.n)),
            sum(prompt.size for prompt in prompts),
            params.stream,
            _include_usage(params),
            params.wants_logprobs,
            params.alternatives,
        )

    def _request(
        self, params: Parameters, tokens: np.ndarray, limit: int, sampling: SamplingOptions
    ) -> Request:
        try:
            return Request(tokens, limit, sampling, params.stops, self._served.tokenizer.end_ids)
        except UserError as error:
            raise invalid(str(error), "stop") from None

    def _check_model(self, params: Parameters) -> None:
        if params.model != self._served.name:
            raise unknown_model(params.model, self._served.name)

    def _tokens(self, prompt: str | list[int]) -> np.ndarray:
        if isinstance(prompt, str):
            return self._served.tokenizer.encode_prompt(prompt)
        size = self._served.vocab_size
        outside = [i for i in prompt if not 0 <= i < size]
        if outside:
            raise invalid(f"prompt: token id {outside[0]} is not in 0 to {size - 1}", "prompt")
        return np.array(prompt, np.int32)

    def _check_bias(self, params: Parameters) -> None:
        size = self._served.vocab_size
        outside = [token for token in params.logit_bias if token >= size]
        if outside:
            message = f"logit_bias: token id {outside[0]} is not in 0 to {size - 1}"
            raise invalid(message, "logit_bias")

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._served.tokenizer.decode(prompt)

    def _limit(self, length: int, source: str, wanted: int | None, default: int) -> int:
        """Return how many tokens may follow a prompt of `length` tokens."""
        context, most = self._served.context, self._max_tokens
        if not 0 < length < context:
            raise invalid(
                f"{source} has {length} tokens: this model's context holds {context}, prompt and "
                f"answer together, so a prompt has 1 to {context - 1}",
                source,
            )
        if wanted is None:
            return min(default, most, context - length)
        if wanted > min(most, context - length):
            raise invalid(
                f"max_tokens ({wanted}) after a prompt of {length} tokens: this model's context "
                f"holds {context} and this server generates at most {most}: ask for "
                f"{min(most, context - length)} or fewer",
                "max_tokens",
            )
        return wanted


def unknown_model(asked: str, served: str) -> ApiError:
    """Return the refusal of a request for another model."""
    return ApiError(
        404,
        f"there is no model {asked!r} here: this server has {served!r}",
        param="model",
        code="model_not_found",
    )


def _samplings(
    params: CompletionParameters | ChatParameters, vocab_size: int
) -> list[SamplingOptions]:
    """Each choice draws from a seed of its own; the first has the one that was asked for."""
    seed = secrets.randbelow(SEEDS) if params.seed is None else params.seed
    try:
        return [
            SamplingOptions(
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
                seed=(seed + choice) % SEEDS,
            )
            for choice in range(params.n)
        ]
    except UserError as error:
        raise invalid(str(error), str(error).split(" ", 1)[0]) from None


def _one_of(new: int | None, old: int | None) -> int | None:
    if None not in (new, old) and new != old:
        raise invalid(
            f"max_completion_tokens ({new}) and max_tokens ({old}) differ: set one of them",
            "max_tokens",
        )
    return new if old is None else old


def _include_usage(params: Parameters) -> bool:
    if params.stream_options is None:
        return False
    if not params.stream:
        raise invalid("stream_options without stream: set stream to true", "stream_options")
    return params.stream_options.include_usage
