"""Notebooks: every cell has run, in order and without an error, and says nothing of where."""

import ast
import json

import pytest
from support.places import ROOT

NOTEBOOKS = sorted((ROOT / "launch" / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_has_run_in_order_without_an_error(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
    assert kinds
    for cell in cells:
        ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_name_no_place_of_this_machine(path):
    text = path.read_text(encoding="utf-8")
    for place in ("/home/", "/root/", "/tmp/", "/work/", "/Users/"):
        assert place not in text
