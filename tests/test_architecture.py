"""Imports go one way, what few files may do stays in those files, and the house stays in order.

What is counted, and how, is `support/architecture.py`; here is what must hold. Bounds are goals: a
change that breaks one mends the code, or says here why not.
"""

import ast
from collections import Counter

import pytest
from support import architecture
from support.architecture import (
    PACKAGE,
    import_cycle,
    imported,
    modules,
    own_imports,
    package_cycle,
    repeated_names,
    taken,
    untested_modules,
)
from support.places import ROOT

#: Lowest first. A module may import its own package and those before it, without exceptions.
FLOORS = (
    *("errors", "shapes", "dtypes", "axes", "safe_paths", "checkpoint"),
    "config",
    *("hardware", "workdir", "sharding"),
    *("data", "mesh"),
    "nn",
    "moe",
    "model",
    *("session", "interop"),
    *("training", "inference"),
    *("serve", "planner"),
    "bench",
    "cli",
)
#: The wings of a package with folders, lowest first, likewise.
WINGS = {
    "interop": (
        *("files", "table", "tensors", "families"),
        *("same_model", "config_json", "counts", "open", "load"),
        *("convert", "export", "dense_model", "upcycle"),
    ),
    "planner": (
        *("xla", "compile", "report", "modelled", "compiled", "planning"),
        *("search", "claims", "pictures"),
    ),
}
#: More files than that are two ideas.
LARGEST_FOLDER = 16
#: A name in several modules costs a reader a look at the imports. The verbs of the command line all
#: have an `add_parser` and a `run`.
MOST_REPEATED_NAMES = 20
#: Modules of names and constants: what they say is tested where it is used.
TABLES = {
    f"{PACKAGE}.{name}"
    for name in (
        *("axes", "dtypes", "errors", "shapes", "__main__"),
        *("checkpoint.errors", "cli.shared.exit_codes", "config.section", "serve.errors"),
        *("interop.families.common", "interop.table.family"),
    )
}

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


MODULES = modules()


def upward(module: str, tree: ast.AST) -> list[str]:
    """Return the imports of a module that point to a package, or wing, above its own."""
    higher = []
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
            higher.append(name)
    return sorted(higher)


def floor(package: str) -> int:
    """Return the number of a package's floor; `moe_jax` itself is above all."""
    return FLOORS.index(package) if package else len(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert not upward(module, MODULES[module])


def test_every_package_has_its_floor():
    assert sorted(FLOORS) == sorted({name.split(".")[1] for name in MODULES if "." in name})


@pytest.mark.parametrize("package", WINGS)
def test_every_wing_has_its_place(package):
    inside = {n.split(".")[2] for n in MODULES if n.startswith(f"moe_jax.{package}.")}
    assert sorted(WINGS[package]) == sorted(inside)


def test_folders_can_be_taken_in_at_a_glance():
    sizes = Counter(path.parent for path in (ROOT / "moe_jax").rglob("*.py"))
    assert {str(folder): n for folder, n in sizes.items() if n > LARGEST_FOLDER + 1} == {}


def test_nothing_imports_in_a_ring():
    assert import_cycle() == []
    assert package_cycle() == []


def test_few_names_are_defined_twice():
    repeated = repeated_names()
    assert len(repeated) <= MOST_REPEATED_NAMES, repeated


def test_tables_are_modules():
    assert set(untested_modules()) & TABLES == TABLES & MODULES.keys()


def where(predicate) -> set[str]:
    return {name for name, tree in MODULES.items() if predicate(tree)}


def test_only_spmd_calls_shard_map():
    def calls(tree: ast.AST) -> bool:
        named = {name for name in imported(tree) if "shard_map" in name.split(".")}
        return bool(named or taken(tree, {"shard_map"}, "jax"))

    assert where(calls) == {"moe_jax.sharding.spmd"}


def test_only_exchange_sharding_and_pipeline_use_collectives():
    users = where(lambda tree: taken(tree, COLLECTIVES, "jax.lax"))
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
    assert taken(ast.parse(source), COLLECTIVES, "jax.lax") == {"psum"}


@pytest.fixture
def house(monkeypatch):
    """Replaces our source by modules of a few lines; `__` in a name is a dot."""

    def build(**sources: str) -> None:
        trees = {name.replace("__", "."): ast.parse(text) for name, text in sources.items()}
        folders = {name.rpartition(".")[0] for name in trees} - {""}
        monkeypatch.setattr(architecture, "modules", lambda: trees)
        monkeypatch.setattr(architecture, "packages", lambda: folders)

    return build


DEAD = "def f(): ..."


@pytest.mark.parametrize(
    "use",
    [
        "from moe_jax.a.b import f\nf()",
        "from moe_jax.a import b\nb.f()",
        "from moe_jax.a import f\nf()",
    ],
)
def test_a_use_is_seen_however_it_is_imported(house, use):
    init = "from moe_jax.a.b import f\n__all__ = ['g']"
    house(moe_jax="", moe_jax__a=init, moe_jax__a__b=DEAD, moe_jax__c=use)
    assert architecture.unused_definitions() == set()


@pytest.mark.parametrize(
    "more", ["", "def f(n): f(n - 1)", "# f()", "def _g():\n    '''Calls f.'''"]
)
def test_what_only_a_face_imports_or_itself_calls_is_unused(house, more):
    init = "from moe_jax.a.b import f"
    house(moe_jax="", moe_jax__a=init, moe_jax__a__b=f"{more or DEAD}\n{DEAD}", moe_jax__c="")
    assert architecture.unused_definitions() == {"moe_jax.a.b.f"}


def test_own_module_annotations_and_the_front_door_are_uses(house):
    house(
        moe_jax="from moe_jax.a import door",
        moe_jax__a="class C: ...\ndef door(x: 'C'): g()\ndef g(): ...",
    )
    assert architecture.unused_definitions() == set()


def test_rings_of_packages_are_seen_where_modules_have_none(house):
    house(
        moe_jax="",
        moe_jax__a="",
        moe_jax__a__one="from moe_jax.b import two",
        moe_jax__a__three="",
        moe_jax__b="",
        moe_jax__b__two="",
        moe_jax__b__four="from moe_jax.a import three",
    )
    assert architecture.import_cycle() == []
    assert sorted(set(architecture.package_cycle())) == ["a", "b"]


def test_docstrings_that_need_args_are_those_of_two_parameters_and_several_lines(house):
    long = "'''One.\n\n    Two.\n    '''"
    house(
        moe_jax=f"def one(a):\n    {long}\ndef two(a, b):\n    {long}\ndef three(a, b): ...",
        moe_jax__a=f"class C:\n    def method(self, a, *, b):\n        {long}",
    )
    assert architecture.undescribed_arguments() == (["moe_jax:two", "moe_jax.a:method"], 2)


def test_names_of_several_modules_are_counted_by_kind(house):
    house(
        moe_jax="def f(): ...\nclass C: ...", moe_jax__a="class f: ...\nclass C: ...\ndef _g(): ..."
    )
    assert architecture.repeated_names() == {n: ["moe_jax", "moe_jax.a"] for n in ("f", "C")}
    assert list(architecture.repeated_names(ast.ClassDef)) == ["C"]
