"""One base for the user's mistakes, and nothing of the package that raises a bare ValueError."""

import ast

import pytest
from support.places import ROOT

from moe_jax.errors import UserError

SOURCES = sorted((ROOT / "moe_jax").rglob("*.py"))


def test_callers_may_catch_value_error():
    with pytest.raises(ValueError, match="rule"):
        raise UserError("rule")


def raised(tree: ast.AST) -> set[str]:
    """Names of the errors that a module raises by calling them."""
    calls = (n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise))
    return {c.func.id for c in calls if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)}


def test_no_module_raises_a_bare_value_error():
    bare = {str(p) for p in SOURCES if "ValueError" in raised(ast.parse(p.read_text()))}
    assert not bare


def test_errors_of_the_package_are_the_users_or_say_why_not():
    """A class that ends in Error and is none: what diverges, and what HTTP answers with."""
    bases = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                bases[node.name] = {ast.unparse(base) for base in node.bases}
    others = {n for n, of in bases.items() if not any(b.endswith("UserError") for b in of)}
    assert others == {"UserError", "NonFiniteError", "ApiError", "DamagedCheckpointError"}
    assert bases["DamagedCheckpointError"] == {"CheckpointError"}
