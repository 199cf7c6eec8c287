"""Imports go one way, and what few files may do stays in those files.

Reads every import of `moe_jax` from its source, those inside functions too.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Lowest first. A module belongs to the longest name that covers it, and may import modules of
#: its own layer and of those before it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("shapes", "dtypes", "config", "mesh.axes"),
    ("mesh", "placement", "planner.hardware"),
    ("sharding", "moe.exchange"),
    ("nn",),
    ("moe",),
    ("model",),
    ("train", "data", "inference", "checkpoint", "interop"),
    ("planner", "bench", "serve"),
    ("cli",),
)
COLLECTIVES = {
    "all_gather",
    "all_to_all",
    "pmax",
    "pmean",
    "pmin",
    "ppermute",
    "psum",
    "psum_scatter",
    "ragged_all_to_all",
}


def read_modules() -> dict[str, ast.Module]:
    """Returns the syntax tree of every module by dotted name; packages by their own name."""
    trees = {}
    for path in sorted((ROOT / "moe_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


MODULES = read_modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Yields dotted names: `import a.b` is a.b, `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write imports absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """Returns the modules of this project that a tree imports."""
    names = {name for name in imported(tree) if name.split(".")[0] == "moe_jax"}
    # `from moe_jax.a import b` names a module b, or something inside module a.
    return {name if name in MODULES else name.rsplit(".", 1)[0] for name in names}


def layer(module: str) -> int:
    """Returns the number of a module's layer; the package itself is above all."""
    path = module.split(".")[1:]
    for size in range(len(path), 0, -1):
        covering = ".".join(path[:size])
        for number, names in enumerate(LAYERS):
            if covering in names:
                return number
    assert not path, f"{module} is in no layer: add it to LAYERS"
    return len(LAYERS)


def upward(module: str, tree: ast.AST) -> list[str]:
    """Returns the imports of a module that point to a higher layer."""
    return sorted(name for name in own_imports(tree) if layer(name) > layer(module))


def uses(tree: ast.AST, names: set[str], parent: str) -> set[str]:
    """Returns which `names` are taken from `parent` (such as `jax.lax`), however it is imported."""
    found = {name.rsplit(".", 1)[1] for name in imported(tree) if name.startswith(f"{parent}.")}
    last = parent.rsplit(".", 1)[-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == last:
            found.add(node.attr)
    return found & names


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert not upward(module, MODULES[module])


def test_no_two_modules_import_each_other():
    graph = {name: own_imports(tree) - {name} for name, tree in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def where(predicate) -> set[str]:
    return {name for name, tree in MODULES.items() if predicate(tree)}


def test_only_spmd_calls_shard_map():
    def calls(tree: ast.AST) -> bool:
        named = {name for name in imported(tree) if "shard_map" in name.split(".")}
        return bool(named or uses(tree, {"shard_map"}, "jax"))

    assert where(calls) == {"moe_jax.sharding.spmd"}


def test_only_exchange_sharding_and_pipeline_use_collectives():
    users = where(lambda tree: uses(tree, COLLECTIVES, "jax.lax"))
    assert users
    # Measuring collectives one at a time is no use of them in a model.
    users.remove("moe_jax.bench.collectives")
    allowed = ("moe_jax.moe.exchange.", "moe_jax.sharding.", "moe_jax.model.pipeline")
    assert all(name.startswith(allowed) for name in users), users


def test_only_checkpoint_imports_orbax():
    users = where(lambda tree: any(name.split(".")[0] == "orbax" for name in imported(tree)))
    assert users
    assert all(name.startswith("moe_jax.checkpoint") for name in users), users


def test_function_local_and_nested_imports_are_seen():
    tree = ast.parse("def f():\n    from moe_jax.train import step\n    import moe_jax.cli.main\n")
    assert upward("moe_jax.nn.mlp", tree) == ["moe_jax.cli.main", "moe_jax.train.step"]
    assert upward("moe_jax.cli.main", tree) == []


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.lax.psum(x, 'a')",
        "from jax import lax\nlax.psum(x, 'a')",
        "from jax.lax import psum",
        "def f():\n    from jax.lax import psum as p",
    ],
)
def test_collectives_are_seen_however_they_are_imported(source):
    assert uses(ast.parse(source), COLLECTIVES, "jax.lax") == {"psum"}


@pytest.mark.parametrize(
    ("module", "number"),
    [("mesh.axes", 0), ("mesh.build", 1), ("planner.hardware", 1), ("planner.hlo", 7)],
)
def test_the_longest_name_decides_the_layer(module, number):
    assert layer(f"moe_jax.{module}") == number
