"""What the source says of itself: imports, definitions, docstrings, tests. Counts; asserts nothing.

Reads syntax trees only, so that nothing is imported. What must hold is `test_architecture.py`.
"""

import ast
import graphlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

from support.places import ROOT, TESTS

PACKAGE = "moe_jax"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> Mapping[str, ast.Module]:
    """Return the syntax tree of every module by dotted name; packages by their own name."""
    trees = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


@cache
def packages() -> frozenset[str]:
    """Return the dotted names of those modules that are folders."""
    folders = (path.parent for path in (ROOT / PACKAGE).rglob("__init__.py"))
    return frozenset(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names: `import a.b` is a.b, `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write imports absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """Return the modules of this project that a tree imports."""
    names = {name for name in imported(tree) if name.split(".")[0] == PACKAGE}
    # `from moe_jax.a import b` names a module b, or something inside module a.
    return {name if name in modules() else name.rsplit(".", 1)[0] for name in names}


def import_cycle() -> list[str]:
    """Return modules that import each other in a ring; [] without one."""
    return _cycle({name: own_imports(tree) - {name} for name, tree in modules().items()})


def package_cycle() -> list[str]:
    """Return packages (and top modules) that import each other in a ring; [] without one.

    What stands in `moe_jax/` itself is a package of its own; the front door `moe_jax` is none.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules().items():
        if name != PACKAGE:
            own = name.split(".")[1]
            others = (n.split(".")[1] for n in own_imports(tree) if n != PACKAGE)
            graph[own].update(other for other in others if other != own)
    return _cycle(graph)


def _cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def taken(tree: ast.AST, names: set[str], parent: str) -> set[str]:
    """Return which `names` are taken from `parent` (such as `jax.lax`), however it is imported."""
    used = {name.rsplit(".", 1)[1] for name in imported(tree) if name.startswith(f"{parent}.")}
    last = parent.rsplit(".", 1)[-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == last:
            used.add(node.attr)
    return used & names


def public_definitions() -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Yield (module, definition) of every public class and function at a module's top."""
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                yield name, node


def repeated_names(kind: type[ast.AST] | None = None) -> dict[str, list[str]]:
    """Return public names that several modules define, with those modules.

    Args:
        kind: of definitions that count, such as `ast.ClassDef`; None for all.
    """
    homes: dict[str, list[str]] = defaultdict(list)
    for module, node in public_definitions():
        if kind is None or isinstance(node, kind):
            homes[node.name].append(module)
    return {name: found for name, found in homes.items() if len(found) > 1}


def unused_definitions() -> set[str]:
    """Return public classes and functions that nothing in the package uses: dead, or for tests.

    A use is any mention in code outside the definition itself; to be imported by a package's
    `__init__` is none by itself, unless that of the whole package, which is the front door.
    """
    used = set()
    for name, tree in modules().items():
        paths = set(imported(tree))
        if name in packages() and name != PACKAGE:
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            paths = {path for path in paths if path.rpartition(".")[2] in names}
        used |= {_home(path) for path in paths}
        used |= {_home(path) for path in _dotted_uses(tree)}
        used |= {f"{name}.{mention}" for mention in _mentions(tree)}
    return {f"{module}.{node.name}" for module, node in public_definitions()} - used


def _home(path: str) -> str:
    """Return where something is defined that was imported from a package's `__init__`."""
    package, _, name = path.rpartition(".")
    if package in packages():
        for source in imported(modules()[package]):
            if source.rpartition(".")[2] == name and source.startswith(PACKAGE) and source != path:
                return _home(source)
    return path


def _dotted_uses(tree: ast.AST) -> Iterator[str]:
    """Yield what is used as an attribute of an imported module: `module.name`."""
    known = {name.rpartition(".")[2]: name for name in imported(tree) if name in modules()}
    for node in ast.walk(tree):
        is_dotted = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if is_dotted and node.value.id in known:
            yield f"{known[node.value.id]}.{node.attr}"


def _mentions(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module uses, but for a definition's of itself."""
    for node in tree.body:
        own = getattr(node, "name", "")
        for part in ast.walk(node):
            text = part.id if isinstance(part, ast.Name) else ""
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                text = part.value  # a quoted annotation
            if text and text != own:
                yield text


def functions() -> Iterator[tuple[str, Function]]:
    """Yield every function and method, as "module:name"."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{name}:{node.name}", node


def undescribed_arguments() -> tuple[list[str], int]:
    """Count the docstrings that should say what their arguments are, and do not.

    Those of several lines, of functions with two parameters or more besides self: a sentence may
    say what one is, or two.

    Returns:
        The functions whose docstrings lack "Args:", and how many should have it.
    """
    lacking, total = [], 0
    for name, node in functions():
        text = ast.get_docstring(node) or ""
        if "\n" in text and len(_parameters(node)) >= 2:
            total += 1
            lacking += [] if "Args:\n" in text else [name]
    return lacking, total


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    names = [argument.arg for argument in every]
    return [name for name in names if name not in ("self", "cls")]


def untested_modules() -> list[str]:
    """Return the modules without a test file of their name in their place, packages left out."""
    missing = []
    for name in modules().keys() - packages():
        *folders, last = name.split(".")[1:]
        if not TESTS.joinpath(*folders, f"test_{last}.py").is_file():
            missing.append(name)
    return sorted(missing)
