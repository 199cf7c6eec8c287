"""Imports go one way, and a few powers are confined to one place. Read from the source, with
function-local imports counted like any other."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "moe_jax"

#: A module may import from its own level and from those above it in this list.
LEVELS = (
    ("shapes", "dtypes", "config", "mesh.axes"),
    ("mesh", "placement", "planner.hardware"),
    ("sharding", "moe.exchange"),
    ("nn",),
    ("moe",),
    ("model",),
    ("checkpoint", "data", "inference", "interop", "train"),
    ("planner", "bench"),
    ("cli",),
)
COLLECTIVES = {"all_to_all", "all_gather", "psum", "psum_scatter", "pmax", "pmean", "ppermute"}


def modules() -> dict[str, ast.Module]:
    paths = [p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem != "__init__"]
    names = {p: ".".join(p.relative_to(SOURCE).with_suffix("").parts) for p in paths}
    return {n.removesuffix(".__init__"): ast.parse(p.read_text()) for p, n in names.items()}


MODULES = modules()


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(tree: ast.Module) -> set[str]:
    names = {n.removeprefix("moe_jax.") for n in imported(tree) if n.startswith("moe_jax.")}
    return names & MODULES.keys()


def level(module: str) -> int:
    """The level of the longest listed name that the module belongs to."""
    fits = [
        (len(name), i)
        for i, names in enumerate(LEVELS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    assert fits, f"{module} belongs to no level: add it to LEVELS"
    return max(fits)[1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_nothing_from_a_later_level(module):
    later = {n for n in ours(MODULES[module]) if level(n) > level(module)}
    assert not later, f"{module} imports {sorted(later)}"


def test_modules_import_each_other_in_no_cycle():
    edges = {name: ours(tree) - {name} for name, tree in MODULES.items()}
    # A package's __init__ re-exports its modules; what they import of it is not a cycle of code.
    edges = {n: {m for m in to if not m.startswith(n + ".")} for n, to in edges.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for following in sorted(edges[name]):
                visit(following, (*path, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def attributes(tree: ast.Module) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_powers_are_confined(module):
    tree = MODULES[module]
    used = attributes(tree) | {name.rsplit(".", 1)[-1] for name in imported(tree)}
    if module != "sharding.spmd":
        assert "shard_map" not in used
    if not module.startswith("moe.exchange"):
        assert not used & (COLLECTIVES - {"all_gather", "all_to_all"})
        lax = {f"jax.lax.{name}" for name in COLLECTIVES}
        assert not {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & lax
    if not module.startswith("checkpoint"):
        assert not any(name.split(".")[0] == "orbax" for name in imported(tree))
