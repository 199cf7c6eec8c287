"""Each family against `transformers`: same directory, same logits, on every mesh and transport,
and the same continuations."""

import numpy as np
import pytest
from support.hf.hf_cases import CASES, SMOKE
from support.hf.hf_models import (
    NEW,
    ROWS,
    VOCAB,
    Case,
    continued_by_ours,
    continued_by_theirs,
    logits_of_ours,
    saved,
    valid,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")

SETTINGS = [
    (f"mesh.expert={devices}", f"exchange.transport={transport}")
    for devices in (1, 4, 8)
    for transport in ("local", "all_gather", "all_to_all")
] + [("mesh.expert=2", "mesh.fsdp=2", "mesh.tensor=2")]
#: By turns, so that each family has two.
GENERATION = (
    ("mesh.expert=1", "exchange.transport=local"),
    ("mesh.expert=4", "exchange.transport=all_gather"),
    ("mesh.expert=8", "exchange.transport=all_to_all"),
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers")


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf_models")


def assert_same_logits(path, *overrides: str) -> None:
    theirs, ours = np.load(path / "logits.npy"), logits_of_ours(path, *overrides)
    assert ours.shape == (*valid().shape, VOCAB)
    # Logits that hardly differ between tokens would agree whatever the model.
    assert theirs[valid()].std() > 0.5
    np.testing.assert_allclose(ours[valid()], theirs[valid()], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", SMOKE, ids=str)
def test_logits_are_those_of_transformers(case: Case, root):
    assert_same_logits(saved(case, root), "mesh.expert=8", "exchange.transport=all_to_all")


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_transformers_on_every_mesh(case: Case, setting, root):
    assert_same_logits(saved(case, root), *setting)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "setting"),
    [(case, GENERATION[i % len(GENERATION)]) for i, case in enumerate(CASES)],
    ids=str,
)
def test_the_likeliest_continuations_are_those_of_transformers(case: Case, setting, root):
    theirs = continued_by_theirs(case)
    assert theirs.shape == (ROWS, NEW)
    # Text that repeats one token would agree too easily.
    assert np.unique(theirs).size > 5
    np.testing.assert_array_equal(continued_by_ours(saved(case, root), *setting), theirs)
