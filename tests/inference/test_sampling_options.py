"""Which values sampling options may have."""

import dataclasses
import re

import pytest

from moe_jax.inference.sampling_options import (
    MAX_BIASES,
    NO_TOKEN,
    SEEDS,
    SamplingOptions,
    sample_options,
)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_k", 2**31),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        # float32 would make infinity of one and zero of the other.
        ("repetition_penalty", 1e39),
        ("repetition_penalty", 1e-46),
        ("temperature", 1e39),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", float("nan")),
        ("presence_penalty", -2.5),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_value_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=re.escape(f"{option} ({value}) must be")):
        SamplingOptions(**{option: value})


def test_biases_are_pairs_wherever_they_come_from():
    want = ((3, -1.0), (5, 2.0))
    for given in ({3: -1.0, 5: 2.0}, [[3, -1.0], [5, 2.0]], want):
        assert SamplingOptions(logit_bias=given).logit_bias == want
    for given, message in (
        ({5: 100.5}, r"logit_bias \(100.5 for token 5\) must be from -100 to 100"),
        ({5: float("nan")}, r"logit_bias \(nan for token 5\) must be from -100"),
        ({-1: 1}, r"logit_bias \(token -1\) must be of ids"),
        ({NO_TOKEN: 1}, rf"logit_bias \(token {NO_TOKEN}\) must be of ids"),
        (dict.fromkeys(range(MAX_BIASES + 1), 1), r"\(301 tokens\) must be of at most 300"),
    ):
        with pytest.raises(ValueError, match=message):
            SamplingOptions(logit_bias=given)


def test_the_outermost_values_are_allowed():
    for penalty in (-2.0, 2.0):
        SamplingOptions(frequency_penalty=penalty, presence_penalty=penalty)
    for bias in (-100.0, 100.0):
        SamplingOptions(logit_bias=dict.fromkeys(range(MAX_BIASES), bias))
    SamplingOptions(logit_bias={NO_TOKEN - 1: 1}, top_logprobs=20)


def test_samples_differ_by_their_seed_alone():
    one = SamplingOptions(temperature=0.5, seed=SEEDS - 2)
    samples = sample_options(one, 3)
    assert [sample.seed for sample in samples] == [SEEDS - 2, SEEDS - 1, 0]
    assert {dataclasses.replace(sample, seed=one.seed) for sample in samples} == {one}
    with pytest.raises(ValueError, match=r"num_samples \(0\) must be 1 or more"):
        sample_options(one, 0)
