"""Imports go one way, and what few files may do stays in those files.

Reads every import of `moe_jax` from its source, those inside functions too.
"""

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import pytest
from support.places import ROOT

from moe_jax.cli import main as cli_main
from moe_jax.config.schema import ExchangeConfig, TransportName
from moe_jax.moe.exchange import TRANSPORTS

#: Lowest first. A module may import its own package and those before it, without exceptions.
FLOORS = (
    *("errors", "shapes", "dtypes", "axes", "safe_paths", "workdir", "checkpoint"),
    "config",
    *("hardware", "sharding"),
    *("data", "mesh"),
    "nn",
    "moe",
    "model",
    *("session", "interop"),
    *("inference", "training"),
    *("serve", "planner"),
    "bench",
    *("cli", "__main__"),
)
#: Of the command line: they do not know of each other.
VERBS = (
    *("train", "generate", "eval", "serve", "convert", "upcycle"),
    *("inspect", "plan", "claims", "doctor", "bench"),
)
#: The wings of a package with folders, lowest first, likewise.
WINGS = {
    "planner": (
        *("xla", "compile", "report", "modelled", "compiled", "planning", "api"),
        *("search", "claims", "pictures"),
    ),
    "training": (
        *("reporting", "schedule", "optimizer", "state", "step"),
        *("changes", "initial", "resume", "validate", "loop", "api"),
    ),
    "cli": ("shared", *VERBS, "main"),
}
#: More files than that are two ideas.
LARGEST_FOLDER = 16
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


def upward(module: str, tree: ast.AST) -> list[str]:
    """Returns the imports of a module that point to a package, or wing, above its own."""
    found = []
    for name in own_imports(tree):
        (package, *inside), (other, *inside_other) = (
            n.split(".")[1:] or [""] for n in (module, name)
        )
        if package == other:
            wings = WINGS.get(package, [])
            climbs = bool(wings and inside and inside_other) and wings.index(
                inside_other[0]
            ) > wings.index(inside[0])
        else:
            climbs = floor(other) > floor(package)
        if climbs:
            found.append(name)
    return sorted(found)


def floor(package: str) -> int:
    """Returns the number of a package's floor; `moe_jax` itself is above all."""
    return FLOORS.index(package) if package else len(FLOORS)


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


def test_every_package_has_its_floor():
    assert sorted(FLOORS) == sorted({name.split(".")[1] for name in MODULES if "." in name})


@pytest.mark.parametrize("package", WINGS)
def test_every_wing_has_its_place(package):
    inside = {n.split(".")[2] for n in MODULES if n.startswith(f"moe_jax.{package}.")}
    assert sorted(WINGS[package]) == sorted(inside)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("moe_jax.cli.")])
def test_no_verb_imports_another(module):
    own = module.split(".")[2]
    names = {n.split(".")[2] for n in own_imports(MODULES[module]) if n.startswith("moe_jax.cli.")}
    assert not names & ({*VERBS} - {own})


def test_main_knows_every_verb_and_its_module():
    assert sorted(cli_main.VERBS) == sorted(VERBS)
    for verb, (module, _) in cli_main.VERBS.items():
        assert module in MODULES
        assert module.split(".")[2] == verb


def test_folders_can_be_taken_in_at_a_glance():
    sizes = Counter(path.parent for path in (ROOT / "moe_jax").rglob("*.py"))
    assert {str(folder): n for folder, n in sizes.items() if n > LARGEST_FOLDER + 1} == {}


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


def names_a_transport(tree: ast.AST) -> bool:
    """Returns whether a string of the source is the name of a transport."""
    strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return not TRANSPORTS.keys().isdisjoint(s for s in strings if isinstance(s, str))


def test_only_the_exchange_its_schema_and_a_preset_name_transports():
    files = where(names_a_transport)
    inside = {name for name in files if name.startswith("moe_jax.moe.exchange.")}
    assert inside
    assert files - inside == {"moe_jax.config.schema", "moe_jax.bench.sizes"}


def test_transports_of_the_config_are_those_that_there_are():
    assert set(get_args(TransportName)) == TRANSPORTS.keys()
    field = ExchangeConfig.model_fields["transport"]
    assert set(get_args(field.annotation)) == {"auto", *TRANSPORTS}
    assert all(transport.name == name for name, transport in TRANSPORTS.items())


def test_a_transport_is_seen_by_its_name_alone():
    assert names_a_transport(ast.parse("if spec.transport.name == 'local':\n    pass"))
    assert not names_a_transport(ast.parse("def local():\n    'Stays local.'"))


def test_only_checkpoint_imports_orbax():
    users = where(lambda tree: any(name.split(".")[0] == "orbax" for name in imported(tree)))
    assert users
    assert all(name.startswith("moe_jax.checkpoint") for name in users), users


def test_function_local_and_nested_imports_are_seen():
    tree = ast.parse(
        "def f():\n    from moe_jax.training import step\n    import moe_jax.cli.main\n"
    )
    assert upward("moe_jax.nn.mlp", tree) == ["moe_jax.cli.main", "moe_jax.training.step"]
    assert upward("moe_jax.cli.main", tree) == []


def test_wings_are_told_apart():
    tree = ast.parse(
        "from moe_jax.planner.search import finals\nfrom moe_jax.planner.xla import hlo"
    )
    assert upward("moe_jax.planner.report.tables", tree) == ["moe_jax.planner.search.finals"]
    assert upward("moe_jax.planner.claims.speed", tree) == []


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
