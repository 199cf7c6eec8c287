"""Imports go one way, what few files may do stays in those files, and the house stays in order.

What is counted, and how, is `support/architecture.py`; here is what must hold. Bounds are goals: a
change that breaks one mends the code, or says here why not.
"""

import ast
import tomllib
from collections import Counter
from typing import get_args

import pytest
from support import architecture
from support.architecture import (
    PACKAGE,
    import_cycle,
    imported,
    modules,
    own_imports,
    package_cycle,
    packages,
    repeated_names,
    taken,
    undescribed_arguments,
    untested_modules,
    unused_definitions,
)
from support.places import CONFIGS, ROOT

from moe_jax.cli import main as cli_main
from moe_jax.config.schema import ExchangeConfig, TransportName
from moe_jax.moe.exchange import TRANSPORTS

#: Lowest first. A module may import its own package and those before it, without exceptions.
FLOORS = (
    *("errors", "shapes", "dtypes", "axes", "scopes", "safe_paths", "workdir", "checkpoint"),
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
    "interop": (
        *("files", "table", "tensors", "families"),
        *("same_model", "config_json", "counts", "open", "load"),
        *("convert", "export", "dense_model", "upcycle"),
    ),
    "planner": (
        *("xla", "compile", "report", "modelled", "compiled", "planning", "api"),
        *("search", "claims", "pictures"),
    ),
    "training": (
        *("reporting", "schedule", "optimizer", "state", "step"),
        *("memory_limit", "remat", "changes", "auto_remat"),
        *("initial", "resume", "validate", "loop", "api"),
    ),
    "cli": ("shared", *VERBS, "main"),
}
#: More files than that are two ideas.
LARGEST_FOLDER = 16
#: Class names that stand for two things, and why each is the right word in both places.
SHARED_CLASS_NAMES = {
    "Device": "of a planned cluster; and the two parts of `jax.Device` that reports look at",
    "Memory": "what a plan says that a program needs; and what a run has used",
    "Message": "of a collective; and of a chat, as OpenAI's protocol calls it",
}
#: A name in several modules costs a reader a look at the imports. The verbs of the command line all
#: have an `add_arguments` and a `run`.
MOST_REPEATED_NAMES = 20
#: Used by no code of ours, and why not dead.
USED_FROM_OUTSIDE = {
    "moe_jax.planner.compile.programs.decode": "named by planning.PROGRAMS",
    "moe_jax.planner.compile.programs.forward": "named by planning.PROGRAMS",
    "moe_jax.planner.compile.programs.train_step": "named by planning.PROGRAMS",
}
#: Of docstrings of several lines, of functions with two parameters or more besides self.
LEAST_DESCRIBED = 0.85
#: Of modules, packages and tables left out.
LEAST_TESTED = 0.9
#: Modules of names and constants: what they say is tested where it is used.
TABLES = {
    f"{PACKAGE}.{name}"
    for name in (
        *("axes", "dtypes", "scopes", "shapes", "nn.names", "__main__"),
        *("interop.families.common", "interop.table.family"),
    )
}
LONGEST_README = 200
#: Lines of settings and headings; comments say why, and may be as long as the reasons are.
LONGEST_CONFIG = 60

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


def test_nothing_imports_in_a_ring():
    assert import_cycle() == []
    assert package_cycle() == []


def test_a_class_name_stands_for_one_thing():
    repeated = repeated_names(ast.ClassDef)
    assert {name: homes for name, homes in repeated.items() if name not in SHARED_CLASS_NAMES} == {}
    assert set(SHARED_CLASS_NAMES) <= set(repeated), "an excuse that nothing needs"
    assert len(SHARED_CLASS_NAMES) <= 3


def test_few_names_are_defined_twice():
    repeated = repeated_names()
    assert len(repeated) <= MOST_REPEATED_NAMES, repeated


def test_everything_public_is_used():
    # Verbs are found by the names of their modules.
    cli = [name for name in MODULES if name.startswith(f"{PACKAGE}.cli.")]
    verbs = {f"{name}.{function}" for name in cli for function in ("add_arguments", "run")}
    unused = unused_definitions() - verbs
    assert sorted(unused - set(USED_FROM_OUTSIDE)) == [], "dead, or for tests only"
    assert set(USED_FROM_OUTSIDE) <= unused, "an excuse that nothing needs"


def test_docstrings_say_what_arguments_are():
    lacking, total = undescribed_arguments()
    assert len(lacking) <= (1 - LEAST_DESCRIBED) * total, (total, lacking)


def test_modules_have_a_test_of_their_name():
    counted = MODULES.keys() - packages() - TABLES
    missing = sorted(set(untested_modules()) & counted)
    assert len(missing) <= (1 - LEAST_TESTED) * len(counted), (len(counted), missing)


def test_tables_are_modules():
    assert set(untested_modules()) & TABLES == TABLES & MODULES.keys()


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_config_fits_a_screen(path):
    text = path.read_text(encoding="utf-8")
    assert tomllib.loads(text)
    said = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(said) <= LONGEST_CONFIG


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
    users.remove("moe_jax.bench.operations.collectives")
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
    assert files - inside == {"moe_jax.config.schema", "moe_jax.bench.operations.sizes"}


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
