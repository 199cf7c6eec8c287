"""How to sample one text: the options, and which values they may have.

What they do is `sampling.py`.
"""

from dataclasses import dataclass, replace

from moe_jax.errors import UserError

#: Alternatives to a token that can be asked for, and that are computed if any are: OpenAI's limit.
MAX_TOP_LOGPROBS = 20
#: OpenAI's limit on the penalties of what was generated, either way.
MAX_PENALTY = 2.0
#: Where float32 has room for a logit times or over it.
LARGEST = 1e30
#: OpenAI's limits on a bias, either way, and on how many there are.
MAX_BIAS = 100.0
MAX_BIASES = 300
#: A token of no vocabulary: where it is written to, nothing is.
NO_TOKEN = 2**31 - 1
#: Seeds are below: 64 bits, as in OpenAI's API, where they are signed.
SEEDS = 2**64


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample one text.

    Raises:
        UserError: for a value out of its range.
    """

    #: 0 picks the most likely token.
    temperature: float = 0.8
    #: Only the k most likely tokens compete (0 = all).
    top_k: int = 0
    #: Only the fewest tokens whose probabilities reach p compete (Holtzman et al., 2020).
    top_p: float = 1.0
    #: Only tokens at least this fraction as likely as the likeliest compete (Nguyen et al., 2024).
    min_p: float = 0.0
    #: Above 1, tokens of the prompt and of what was generated become less likely: positive logits
    #: are divided by it, negative ones multiplied (Keskar et al., 2019).
    repetition_penalty: float = 1.0
    #: Taken off a token's logit for each time that it was generated; the prompt does not count.
    frequency_penalty: float = 0.0
    #: Taken off the logit of every token that was generated; the prompt does not count.
    presence_penalty: float = 0.0
    #: (token, what is added to its logit); a mapping or any sequence of pairs makes one.
    logit_bias: tuple[tuple[int, float], ...] = ()
    #: How many of the most likely tokens come with each that is picked.
    top_logprobs: int = 0
    #: The text depends on it, not on what else is in the batch.
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= LARGEST:
            raise UserError(
                f"temperature ({self.temperature}) must be from 0 (greedy) to {LARGEST:g}"
            )
        if not 0 <= self.top_k < 2**31:
            raise UserError(f"top_k ({self.top_k}) must be 0 (all tokens) or more, below 2**31")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p ({self.top_p}) must be above 0 and at most 1 (all tokens)")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p ({self.min_p}) must be between 0 (all tokens) and 1")
        if not 1 / LARGEST <= self.repetition_penalty <= LARGEST:
            raise UserError(
                f"repetition_penalty ({self.repetition_penalty}) must be from {1 / LARGEST:g} to "
                f"{LARGEST:g} (1 is none)"
            )
        for name in ("frequency_penalty", "presence_penalty"):
            if not abs(getattr(self, name)) <= MAX_PENALTY:
                raise UserError(
                    f"{name} ({getattr(self, name)}) must be from -{MAX_PENALTY:g} to "
                    f"{MAX_PENALTY:g} (0 is none)"
                )
        self._check_bias()
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise UserError(
                f"top_logprobs ({self.top_logprobs}) must be from 0 to {MAX_TOP_LOGPROBS}"
            )
        if not 0 <= self.seed < SEEDS:
            raise UserError(f"seed ({self.seed}) must be from 0 to 2**64 - 1")

    def _check_bias(self) -> None:
        biases = dict(self.logit_bias)
        object.__setattr__(self, "logit_bias", tuple(biases.items()))
        if len(biases) > MAX_BIASES:
            raise UserError(f"logit_bias ({len(biases)} tokens) must be of at most {MAX_BIASES}")
        for token, bias in biases.items():
            if not 0 <= token < NO_TOKEN:
                raise UserError(f"logit_bias (token {token}) must be of ids of the vocabulary")
            if not abs(bias) <= MAX_BIAS:
                raise UserError(
                    f"logit_bias ({bias} for token {token}) must be from -{MAX_BIAS:g} to "
                    f"{MAX_BIAS:g}"
                )


def sample_options(options: SamplingOptions, count: int) -> list[SamplingOptions]:
    """Return options for several samples of one prompt: sample i has the seed `seed + i`.

    Args:
        options: of the first sample.
        count: samples.

    Raises:
        UserError: for no samples.
    """
    if count < 1:
        raise UserError(f"num_samples ({count}) must be 1 or more")
    return [replace(options, seed=(options.seed + i) % SEEDS) for i in range(count)]
