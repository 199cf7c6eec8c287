"""What is kept for backward, as text: one way to write each set, and what is no set."""

import pytest

from moe_jax.config import ConfigError, dump_config, parse_config
from moe_jax.config.remat import KEEPABLE, kept_names, remat_of, written_in_order


def test_words_and_names_mean_sets():
    assert kept_names("full") == ()
    assert kept_names("none") == tuple(KEEPABLE)
    assert kept_names("qkv+attention") == ("attention", "qkv")
    assert remat_of(()) == "full"
    assert remat_of({"dispatch"}) == "dispatch"
    for names in (("attention",), ("attention", "dispatch", "mlp"), tuple(KEEPABLE)):
        assert kept_names(remat_of(names)) == names


@pytest.mark.parametrize("word", ["auto", "none", "full", "dispatch"])
def test_what_configs_have_always_said_stays(word):
    assert written_in_order(word) == word
    assert parse_config(f'[train]\nremat = "{word}"').train.remat == word


def test_a_set_is_written_in_one_order():
    config = parse_config("", ["train.remat=dispatch+attention+dispatch"])
    assert config.train.remat == "attention+dispatch"
    assert parse_config(dump_config(config)) == config


@pytest.mark.parametrize("text", ["atention", "full+qkv", "auto+qkv", "", "attention,qkv"])
def test_what_is_no_set_is_refused_with_all_that_is(text):
    with pytest.raises(ConfigError) as refused:
        parse_config("", [f"train.remat={text}"])
    message = str(refused.value)
    assert "train.remat = " in message
    for word in ("auto", "none", "full", *KEEPABLE):
        assert word in message


def test_a_slip_of_the_pen_is_told_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean attention"):
        kept_names("atention")
