"""`import moe_jax`: costs nothing, shows its names, and gives what they stand for."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import moe_jax
from moe_jax import planner

WANTED = {
    *("load_config", "Config", "train", "plan", "load", "from_hf", "SamplingOptions", "Target"),
    *("UserError", "__version__"),
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_are_those_promised():
    assert set(moe_jax.__all__) == WANTED
    assert set(dir(moe_jax)) >= WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_name_is_there_and_explained(name):
    value = getattr(moe_jax, name)
    assert name == "__version__" or value.__doc__


def test_importing_and_listing_costs_nothing():
    code = (
        "import sys; before = set(sys.modules); import moe_jax; dir(moe_jax); "
        "print(*{n.split('.')[0] for n in set(sys.modules) - before})"
    )
    assert not {"jax", "numpy", "pydantic", "flax", "orbax"} & set(run(code).split())


def test_a_config_is_read_without_jax():
    code = (
        "import sys, moe_jax; moe_jax.load_config; moe_jax.Config(); moe_jax.SamplingOptions(); "
        "moe_jax.UserError; print('jax' in sys.modules)"
    )
    assert run(code) == "False\n"


def test_version_is_that_of_the_package():
    assert moe_jax.__version__ == version("moe-jax")


@pytest.mark.parametrize("face", [moe_jax, planner], ids=lambda face: face.__name__)
def test_type_checkers_are_told_the_same_names(face):
    """What stands under TYPE_CHECKING is what `__getattr__` gives."""
    tree = ast.parse(Path(face.__file__).read_text())
    (guarded,) = (n for n in tree.body if isinstance(n, ast.If))
    told = {}
    for node in guarded.body:
        if isinstance(node, ast.ImportFrom):
            told |= {a.asname or a.name: (node.module, a.name) for a in node.names}
    for name, (module, own) in told.items():
        value = getattr(face, name)
        assert value is getattr(sys.modules[module], own)
    assert set(told) == set(face.__all__) - {"__version__"}
    assert set(dir(face)) >= set(face.__all__)


@pytest.mark.parametrize("face", [moe_jax, planner], ids=lambda face: face.__name__)
def test_an_unknown_name_is_refused_as_python_does(face):
    with pytest.raises(AttributeError, match=f"module '{face.__name__}' has no attribute 'fly'"):
        _ = face.fly


@pytest.mark.parametrize("name", ["", "train", "plan", "load"])
def test_examples_are_python_and_use_public_names(name):
    """They run where a model is there to run them on: the README's test, `training/test_api.py`."""
    doc = inspect.getdoc(getattr(moe_jax, name) if name else moe_jax)
    text = doc.partition("Args:")[0].splitlines()
    tree = ast.parse("\n".join(line[4:] for line in text if line.startswith("    ")))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "moe_jax"
    }
    assert used
    assert used <= WANTED


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "moe_jax", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: moe-jax ")
