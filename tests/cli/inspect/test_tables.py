"""The tables of `inspect`, of arrays made by hand. Reading checkpoints is `test_verb.py`'s."""

from pathlib import Path

import pytest

from moe_jax.checkpoint import Contents, Listing, Rejected, StoredArray
from moe_jax.cli.inspect.tables import (
    array_table,
    checkpoint_table,
    group_of,
    group_table,
    step_table,
)

WEIGHT = StoredArray(
    name="params/w",
    shape=(4, 6),
    dtype="bfloat16",
    chunk=(2, 6),
    mesh={"data": 2, "expert": 1},
    spec=(("data", "expert"), ()),
)
COUNT = StoredArray(name="step", shape=(), dtype="int32", chunk=None, mesh={}, spec=())


def cells(table):
    return [list(column.cells) for column in table.columns]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("params/a/b", "parameters"),
        ("opt_state/0/mu", "optimiser state"),
        ("buffers/bias", "buffers"),
        ("step", "counters"),
    ],
)
def test_first_key_says_what_an_array_is(name, group):
    assert group_of(StoredArray(name, (), "int32", None, {}, ())) == group


def test_an_array_has_its_split_and_pieces():
    names, shapes, dtypes, sizes, splits, pieces = cells(array_table([WEIGHT, COUNT]))
    assert names == ["params/w", "step"]
    assert shapes == ["4 x 6", "scalar"]
    assert dtypes == ["bfloat16", "int32"]
    assert sizes == ["48 B", "4 B"]
    assert splits == ["dim 0 / 2 (data)", "not noted"]
    assert pieces == ["2 pieces of 2 x 6", "not noted"]


def test_totals_are_by_group():
    groups, arrays, elements, sizes = cells(group_table([WEIGHT, WEIGHT, COUNT]))
    assert groups == ["parameters", "optimiser state", "buffers", "counters"]
    assert arrays == ["2", "0", "0", "1"]
    assert elements == ["48", "0", "0", "1"]
    assert sizes == ["96 B", "0 B", "0 B", "4 B"]


def test_steps_are_listed_with_what_is_no_checkpoint():
    listing = Listing([4, 8], [Rejected("run/checkpoints/tmp.00000009", "not finished")])
    assert cells(step_table(listing, shown=8)) == [
        ["4", "8", "tmp.00000009"],
        ["good", "good, shown below", "no checkpoint: not finished"],
    ]


def test_a_checkpoint_without_notes_says_so():
    contents = Contents(Path("run/00000004"), 4, {}, (COUNT,), 3, 100, 0, ())
    facts = dict(zip(*cells(checkpoint_table(contents, None, "none was saved")), strict=True))
    assert facts["config"] == "none was saved"
    assert facts["placement"] == "saved from not noted, by an unknown number of process(es)"
    assert facts["written by"] == "not noted"
    assert facts["on the disk"] == "3 files, 100 B, for 1 arrays of 4 B"


def test_imported_weights_name_their_origin():
    origin = {"hugging_face": {"config": {"model_type": "mixtral"}, "dtype": "bfloat16"}}
    contents = Contents(Path("a"), 0, origin, (WEIGHT,), 1, 1, 1, ())
    facts = dict(zip(*cells(checkpoint_table(contents, None, "")), strict=True))
    assert facts["weights from"] == "a Hugging Face model: mixtral in bfloat16"
    assert facts["placement"] == "saved from data 2: 2 devices, by 1 process(es)"
