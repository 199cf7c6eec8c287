"""Who takes part, and who cannot: by name and reason."""

import pytest

from moe_jax.bench.rivals import contestants as module
from moe_jax.bench.rivals.contestants import contestants, oracle_of


@pytest.mark.parametrize("what", ["layer", "step"])
def test_ours_comes_first_and_names_differ(what):
    names = [contestant.name for contestant in contestants(what, "gpu")]
    assert names[0] == "moe_jax"
    assert len(set(names)) == len(names)
    assert oracle_of(what).name not in names


def test_what_stands_in_for_a_kernel_has_another_name():
    on_cpu, on_gpu = ({c.name for c in contestants("layer", p)} for p in ("cpu", "gpu"))
    assert "torch, loop over experts" in on_cpu - on_gpu
    assert "torch _grouped_mm, compiled" in on_gpu - on_cpu


def test_a_contestant_without_its_packages_or_platform_says_so(monkeypatch):
    by_name = {c.name: c for c in contestants("layer", "cpu")}
    assert by_name["jax ragged_dot_mgpu"].why_not("cpu") == "runs on gpu only"
    assert by_name["transformers eager"].why_not("cpu") == ""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert by_name["transformers eager"].why_not("cpu") == "not installed: torch, transformers"
