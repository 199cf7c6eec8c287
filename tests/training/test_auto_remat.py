"""`train.remat = "auto"` on emulated devices: larger budgets keep more, and a run keeps its choice.

Which of several sets is chosen is `test_remat.py`, with made-up programs.
"""

import functools

import jax
import pytest
from support.training_cases import ONE_DEVICE, records, session_on_first_devices, small_config

import moe_jax
from moe_jax.checkpoint import Checkpoints
from moe_jax.config import load_config, parse_config
from moe_jax.config.remat import kept_names
from moe_jax.errors import UserError
from moe_jax.training import auto_remat
from moe_jax.training.auto_remat import left_open, resolve_remat
from moe_jax.training.memory_limit import MemoryLimit

CONFIG = small_config(
    *ONE_DEVICE,
    "exchange.overflow=drop",
    "train.remat=auto",
    "data.sequence_length=128",
    "train.steps=2",
    "schedule.warmup_steps=1",
    "schedule.kind=constant",
)


@pytest.fixture(scope="module")
def compile_once():
    """Compiling a session's step, by what is kept and the layout."""
    built = {}
    compiled = auto_remat._compiled

    def build(session):
        key = (session.config.train, session.config.exchange)
        if key not in built:
            built[key] = compiled(session)
        return built[key]

    return build


@pytest.fixture
def budget(monkeypatch, compile_once):
    """Sets what a program may take."""
    monkeypatch.setattr(auto_remat, "_compiled", compile_once)

    def set_to(size):
        limit = MemoryLimit(size, "a test's budget")
        monkeypatch.setattr(auto_remat, "memory_limit", lambda devices: limit)

    return set_to


@functools.cache
def session():
    return session_on_first_devices(CONFIG)


def resolved(config=CONFIG, restored=None):
    found = resolve_remat(session_on_first_devices(config), restored)
    return found, found.session.config.train.remat


def test_a_smaller_budget_keeps_less_and_none_is_refused(budget, compile_once):
    budget(2**40)
    found, most = resolved()
    assert most == "none"
    assert found.step is compile_once(found.session)[0], "the program is not compiled again"
    assert "a test's budget" in found.lines[-1]
    sizes = {
        remat: compile_once(auto_remat._keeping(session(), remat))[1]
        for remat in ("full", "attention+residual+qkv")
    }
    assert sizes["full"] < sizes["attention+residual+qkv"] < compile_once(found.session)[1]
    budget(sizes["attention+residual+qkv"])
    less = resolved()[1]
    assert set(kept_names("none")) > set(kept_names(less)) >= {"attention", "residual", "qkv"}
    budget(sizes["full"])
    assert resolved()[1] == "full"
    budget(sizes["full"] - 1)
    with pytest.raises(UserError, match=r"train\.remat = auto: the training step takes"):
        resolved()


def test_what_is_named_is_not_chosen():
    config = small_config(*ONE_DEVICE, "train.remat=attention")
    one = session_on_first_devices(config)
    found = resolve_remat(one, None)
    assert (found.session, found.step, found.lines) == (one, None, [])
    assert left_open(config) == {}


def test_a_run_writes_its_choice_and_keeps_it(budget, compile_once, tmp_path):
    middle = compile_once(auto_remat._keeping(session(), "attention+residual+qkv"))[1]
    budget(middle)
    run = moe_jax.train(CONFIG, tmp_path / "auto")
    chosen = run.config.train.remat
    assert chosen not in ("auto", "none", "full")
    assert load_config(tmp_path / "auto" / "config.toml").train.remat == chosen
    with Checkpoints(tmp_path / "auto" / "checkpoints") as checkpoints:
        assert parse_config(checkpoints.info(2)["config"]).train.remat == chosen
    # More memory by now: the run goes on as it was.
    budget(2**40)
    longer = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"steps": 3})})
    assert moe_jax.train(longer, tmp_path / "auto").config.train.remat == chosen
    losses = [record["loss"] for record in records(tmp_path / "auto")]
    # The same set by name is the same run.
    named = longer.model_copy(update={"train": longer.train.model_copy(update={"remat": chosen})})
    moe_jax.train(named, tmp_path / "named")
    assert [record["loss"] for record in records(tmp_path / "named")] == losses
    # Another layout chooses anew.
    streams = longer.exchange.model_copy(update={"streams": 2})
    moved = longer.model_copy(
        update={"exchange": streams, "train": longer.train.model_copy(update={"steps": 4})}
    )
    assert moe_jax.train(moved, tmp_path / "auto").config.train.remat == "none"


@pytest.mark.slow
def test_a_choice_that_no_longer_fits_is_made_again(budget, compile_once, tmp_path):
    budget(2**40)
    assert moe_jax.train(CONFIG, tmp_path / "run").config.train.remat == "none"
    budget(compile_once(auto_remat._keeping(session(), "full"))[1])
    longer = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"steps": 3})})
    assert moe_jax.train(longer, tmp_path / "run").config.train.remat == "full"


def test_only_local_devices_are_asked(monkeypatch):
    asked = []

    def limit(devices):
        asked.extend(devices)
        return MemoryLimit(0, "")

    monkeypatch.setattr(auto_remat, "memory_limit", limit)
    monkeypatch.setattr(auto_remat, "_compiled", lambda session: (None, 1))
    with pytest.raises(UserError):
        resolved()
    assert asked == jax.local_devices()
