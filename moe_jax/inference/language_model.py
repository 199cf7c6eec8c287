"""A model that can be asked: continues texts, chats, gives logits. Made by `loading.py`.

Requests share an engine's slots by `batcher.py`; how one text is sampled is `sampling.py`; what
callers give is checked by `checks.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moe_jax.axes import AXES
from moe_jax.config import Config
from moe_jax.data.chat import Message
from moe_jax.data.tokenizers import Tokenizer
from moe_jax.errors import UserError
from moe_jax.inference.batcher import Batcher
from moe_jax.inference.checks import (
    Lengths,
    check_bias,
    check_options,
    check_scorable,
    is_one,
    token_ids,
)
from moe_jax.inference.contract import USUAL_SLOTS, Completion, Event, GenerationRequest, Score
from moe_jax.inference.engine import CachedEngine
from moe_jax.inference.forward import Forward
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.model.flops import total_parameters
from moe_jax.model.weights import Weights
from moe_jax.session import Session

#: A text, or its tokens.
TextOrTokens = str | Sequence[int] | np.ndarray


class LanguageModel:
    """A model on a mesh. In a job of several processes, all make the same calls.

    Args:
        name: for those who ask.
        session: the model and its mesh, with a config as `inference_config` makes it.
        weights: the model's values.
        tokenizer: None for a model that has none; it takes and gives no text then.
        longest: tokens of the texts that the model was made for; by default the config's.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        weights: Weights,
        tokenizer: Tokenizer | None,
        longest: int | None = None,
    ):
        self.name, self.session = name, session
        usual = session.config.data.sequence_length
        self._lengths = Lengths(usual, usual if longest is None else longest)
        #: On the mesh.
        self.weights, self._tokenizer = weights, tokenizer
        self._forward = Forward(session, weights)
        #: One that nobody uses now.
        self._engine: CachedEngine | None = None

    def __repr__(self) -> str:
        model, mesh = self.config.model, self.config.mesh
        experts = f", {model.moe.num_experts} experts" if "moe" in model.layers else ""
        axes = [f"{axis} {getattr(mesh, axis)}" for axis in AXES if getattr(mesh, axis) > 1]
        return (
            f"<LanguageModel {self.name}: {total_parameters(self.config):,} parameters, "
            f"{model.num_layers} layers{experts}, {self.config.precision.params}, "
            f"mesh {' x '.join(axes) or 'of one device'}>"
        )

    @property
    def config(self) -> Config:
        """What the model runs with."""
        return self.session.config

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns texts into tokens.

        Raises:
            UserError: the model has none.
        """
        if self._tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer.json, so it takes no text: save its tokenizer there "
                "(AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers), or set "
                "data.tokenizer"
            )
        return self._tokenizer

    def generate(
        self,
        prompts: TextOrTokens | Sequence[TextOrTokens],
        *,
        max_tokens: int = 200,
        stop: str | Sequence[str] = (),
        stream: bool = False,
        slots: int | None = None,
        context: int | None = None,
        **sampling: Any,
    ) -> Any:
        """Continue texts.

            model.generate("def add(", max_tokens=50, temperature=0)

        Args:
            prompts: a text, tokens, or several of those; several are continued together, and
                none depends on the others.
            max_tokens: tokens to generate, at most.
            stop: texts before which to end.
            stream: give the pieces of one text as they come.
            slots: texts at a time; by default what the prompts need.
            context: tokens of prompt and continuation; by default what the prompts need, within
                the config's sequences.
            sampling: fields of `SamplingOptions`, such as temperature and seed; not top_logprobs,
                which `complete` and `stream` answer.

        Returns:
            The continuation, without the prompt: a str, a list of them for several prompts, or with
            `stream` an iterator of pieces.

        Raises:
            UserError: for a request that cannot be met, before anything is generated.
            TypeError: for an option that there is not, or what is neither text nor tokens.
        """
        check_options("generate", sampling, LanguageModel.generate)
        single = is_one(prompts)
        several: Any = [prompts] if single else prompts
        options = SamplingOptions(**sampling)
        requests = [
            self.request(prompt, max_tokens=max_tokens, stop=stop, sampling=options)
            for prompt in several
        ]
        if stream:
            if not single:
                raise UserError("stream=True gives one text: pass one prompt, or use `stream`")
            return (event.text for _, event in self.stream(requests, slots, context) if event.text)
        texts = [completion.text for completion in self.complete(requests, slots, context)]
        return texts[0] if single else texts

    def chat(
        self,
        messages: Sequence[Message],
        *,
        template: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Answer a conversation, as `generate` does a prompt.

        Args:
            messages: each with `role` and `content`.
            template: what else the chat template knows, such as {"enable_thinking": False}.
            options: of `generate`.

        Raises:
            UserError, TypeError: as `generate`.
        """
        check_options("chat", options, LanguageModel.chat, LanguageModel.generate)
        if isinstance(messages, str | Mapping):
            raise TypeError(
                f"chat takes a list of messages, got {messages!r:.80}: give "
                '[{"role": "user", "content": "..."}], or a text to `generate`'
            )
        prompt = self.tokenizer.encode_chat(messages, **(template or {}))
        return self.generate(prompt, **options)

    def request(
        self,
        prompt: TextOrTokens,
        *,
        max_tokens: int,
        stop: str | Sequence[str] = (),
        sampling: SamplingOptions,
    ) -> GenerationRequest:
        """Return what `complete` and `stream` take: the one place where a prompt is checked.

        Args:
            prompt: a text, or its tokens [s].
            max_tokens: tokens to generate, at most.
            stop: texts before which to end; it also ends where the tokenizer says that texts end.
            sampling: how each token is chosen.

        Raises:
            UserError: no tokens, ids outside the vocabulary, or an empty stop string. Whether it
                fits is known with the context, in `stream`.
            TypeError: for what is neither text nor tokens.
        """
        tokens = self._tokens(prompt)
        check_bias(sampling, self.config.model.vocab_size)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return GenerationRequest(
            tokens, sampling, max_tokens=max_tokens, stop=stops, end_ids=self.tokenizer.end_ids
        )

    def complete(
        self,
        requests: Sequence[GenerationRequest],
        slots: int | None = None,
        context: int | None = None,
    ) -> list[Completion]:
        """Meet requests together; return what was generated, in their order.

        Args:
            requests: made by `request`.
            slots: texts at a time; by default all, up to `USUAL_SLOTS`.
            context: tokens of prompt and answer; by default what the requests need.

        Raises:
            UserError: a prompt leaves no room in the context.
        """
        completions = [Completion("", (), (), "") for _ in requests]
        for place, event in self.stream(requests, slots, context):
            completions[place] = completions[place].after(event)
        return completions

    def stream(
        self,
        requests: Sequence[GenerationRequest],
        slots: int | None = None,
        context: int | None = None,
    ) -> Iterator[tuple[int, Event]]:
        """Meet requests together; yield what happens with the place of its request.

        Args:
            requests: made by `request`.
            slots: texts at a time; by default all, up to `USUAL_SLOTS`.
            context: tokens of prompt and answer; by default what the requests need.

        Raises:
            UserError: a prompt leaves no room in the context; before anything is generated.
        """
        engine = self._borrow(requests, slots, context)
        batcher = Batcher(engine, self.tokenizer)
        numbers = {batcher.submit(request): place for place, request in enumerate(requests)}
        return self._drain(batcher, numbers, engine)

    def engine(self, slots: int = USUAL_SLOTS, context: int | None = None) -> CachedEngine:
        """Return a new engine; its cache lives as long as it does.

        Args:
            slots: texts at a time; rounded up so that devices share them equally.
            context: tokens of a text, prompt included; by default the config's sequences.
                More than the model was made for is warned of.
        """
        shards = self._forward.rows
        context = self._lengths.usual if context is None else context
        self._lengths.warn_beyond(context)
        return CachedEngine(
            self.session, self.weights, slots=-(-slots // shards) * shards, context=context
        )

    def logits(self, tokens: TextOrTokens) -> np.ndarray:
        """Return float32 [.., s, v]: at each position the logits of the token that follows.

        Args:
            tokens: a text, or tokens [.., s] of one or of several of one length.

        Raises:
            TypeError: for what is neither text nor tokens.
            UserError: for no tokens, or ids outside the vocabulary.
        """
        array = self._tokens(tokens, dimensions=2)
        self._lengths.warn_beyond(array.shape[-1])
        logits = self._forward.logits(np.atleast_2d(array))
        return logits if array.ndim == 2 else logits[0]

    def score(self, text: TextOrTokens) -> Score:
        """Return how likely each token of a text is, after those before it.

        Args:
            text: or its tokens [s].

        Raises:
            UserError: for a text of one token.
        """
        tokens = self._tokens(text)
        check_scorable(tokens)
        self._lengths.warn_beyond(tokens.size)
        (logprobs,) = self._forward.logprobs(tokens[None])
        return Score(tuple(tokens.tolist()), tuple(logprobs.tolist()))

    def forward(self) -> Forward:
        """Return the forward pass over whole texts."""
        return self._forward

    def _tokens(self, given: TextOrTokens, *, dimensions: int = 1) -> np.ndarray:
        ids = self.tokenizer.encode_prompt(given) if isinstance(given, str) else given
        return token_ids(ids, self.config.model.vocab_size, dimensions=dimensions)

    def _drain(
        self, batcher: Batcher, numbers: Mapping[int, int], engine: CachedEngine
    ) -> Iterator[tuple[int, Event]]:
        try:
            while batcher.busy:
                for event in batcher.advance():
                    yield numbers[event.request], event
        finally:
            # Whoever stops listening gives slots and engine back.
            for number in numbers:
                batcher.cancel(number)
            self._engine = engine

    def _borrow(
        self, requests: Sequence[GenerationRequest], slots: int | None, context: int | None
    ) -> CachedEngine:
        """Return an engine: that of an earlier call where it suits, for it is compiled."""
        wanted = self._lengths.context(context, requests)
        slots = min(max(len(requests), 1), USUAL_SLOTS) if slots is None else slots
        if slots < 1:
            raise UserError(f"slots ({slots}) must be 1 or more")
        # A context that was asked for is a limit too.
        most = self._lengths.usual if context is None else context
        kept, self._engine = self._engine, None
        if kept is not None and kept.slots >= slots and wanted <= kept.context <= most:
            return kept
        # The old one's cache goes before the new one's comes.
        del kept
        return self.engine(slots, wanted)
