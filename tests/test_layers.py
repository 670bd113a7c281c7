"""Who may import whom, read from the syntax trees, and what an import really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "seqtex_core": ROOT / "seqtex_core",
    "seqtex_geometry": ROOT / "geometry" / "seqtex_geometry",
    "seqtex_backbones": ROOT / "backbones" / "seqtex_backbones",
    "seqtex": ROOT / "seqtex",
}
OURS = frozenset({*PACKAGES, "tests", "benchmarks"})
MAY_IMPORT_OURS = {
    "seqtex_core": {"seqtex_core"},
    "seqtex_geometry": {"seqtex_geometry", "seqtex_core"},
    "seqtex_backbones": {"seqtex_backbones", "seqtex_core"},
    "seqtex": {"seqtex", "seqtex_core", "seqtex_geometry", "seqtex_backbones"},
}
GEOMETRY_MAY_USE_OF_CORE = {
    "seqtex_core.errors",
    "seqtex_core.lazy_exports",
    "seqtex_core.registry",
}
AT_IMPORT = {
    "seqtex_core": {"torch", "einops", "safetensors"},
    "seqtex_geometry": {"numpy", "torch", "trimesh", "scipy", "xatlas", "embreex", "PIL"},
    "seqtex_backbones": {"numpy", "torch", "einops", "safetensors", "diffusers"},
}
UNIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
HEAVY = ("diffusers", "transformers", "trimesh", "warp", "xformers", "flash_attn", "kaolin")


@dataclass(frozen=True)
class Import:
    module: str
    at_import_time: bool
    where: str


@cache
def imports_of(file: Path, package: str) -> tuple[Import, ...]:
    """Every import in a file as absolute module names; those under TYPE_CHECKING do not count."""
    folder = PACKAGES[package]
    parents = [package, *file.relative_to(folder).parts[:-1]]

    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            where = f"{file.relative_to(ROOT)}:{getattr(child, 'lineno', 0)}"
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, eager, where)
            elif isinstance(child, ast.ImportFrom):
                base = parents[: len(parents) - child.level + 1] if child.level else []
                module = ".".join([*base, child.module or ""]).strip(".")
                for alias in child.names:
                    yield Import(f"{module}.{alias.name}", eager, where)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, eager and not function)

    return tuple(visit(ast.parse(file.read_text(encoding="utf-8")), True))


def all_imports(package: str) -> list[Import]:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"no files found for {package}"
    return [found for file in files for found in imports_of(file, package)]


def top(module: str) -> str:
    return module.split(".", 1)[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_down_only(package: str) -> None:
    wrong = [
        found
        for found in all_imports(package)
        if top(found.module) in OURS - MAY_IMPORT_OURS[package]
    ]
    assert not wrong


def test_geometry_uses_only_the_plain_tools_of_core() -> None:
    wrong = [
        found
        for found in all_imports("seqtex_geometry")
        if top(found.module) == "seqtex_core"
        and ".".join(found.module.split(".")[:2]) not in GEOMETRY_MAY_USE_OF_CORE
    ]
    assert not wrong


@pytest.mark.parametrize("package", AT_IMPORT)
def test_third_party_packages_at_import_time_are_the_declared_ones(package: str) -> None:
    """Kernel files (``*_kernels.py``) may name their compiler, but nobody imports them eagerly."""
    wrong = []
    for found in all_imports(package):
        if not found.at_import_time:
            continue
        if "_kernels" in found.module:
            wrong.append(found)
        known = top(found.module) in sys.stdlib_module_names | AT_IMPORT[package] | OURS
        if not known and "_kernels.py:" not in found.where:
            wrong.append(found)
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_needs_unix_to_be_imported(package: str) -> None:
    wrong = [
        found
        for found in all_imports(package)
        if found.at_import_time and top(found.module) in UNIX_ONLY
    ]
    assert not wrong


def part_graph(package: str, *, root_modules: bool) -> dict[str, set[str]]:
    """Which parts of a package import which, inside functions too.

    Parts are its subpackages and, if asked for, the modules beside them; not what ``__init__.py``
    lists.
    """
    folder = PACKAGES[package]
    parts = {path.parent.name for path in folder.glob("*/__init__.py")}
    if root_modules:
        parts |= {path.stem for path in folder.glob("*.py")} - {"__init__"}
    graph: dict[str, set[str]] = {part: set() for part in parts}
    for file in sorted(folder.rglob("*.py")):
        part = file.relative_to(folder).parts[0].removesuffix(".py")
        for found in imports_of(file, package) if part in parts else ():
            names = found.module.split(".")
            if names[0] == package and names[1] in parts - {part}:
                graph[part].add(names[1])
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Parts that import each other in a ring; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize(
    ("package", "root_modules"),
    [
        ("seqtex", True),
        ("seqtex_backbones", True),
        ("seqtex_geometry", False),
        ("seqtex_core", False),
    ],
)
def test_no_parts_of_a_package_import_each_other(package: str, root_modules: bool) -> None:
    """In core and geometry modules beside the subpackages are the ends of both: not counted."""
    graph = part_graph(package, root_modules=root_modules)
    assert sum(map(len, graph.values())), "no imports were seen"
    assert cycle_in(graph) == []


def test_imports_in_a_ring_are_seen() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert "training" not in part_graph("seqtex", root_modules=False)["data"]
    assert "data" in part_graph("seqtex", root_modules=False)["training"]


def test_the_reader_of_imports_sees_them() -> None:
    seen = {found.module for found in all_imports("seqtex_geometry") if found.at_import_time}
    assert {"seqtex_core.errors.UsageError", "numpy"} <= seen


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; sys.path[:0] = {[str(p.parent) for p in PACKAGES.values()]!r}\n"
    code += f"{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_cheap(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert package in loaded
    assert not loaded & {"torch", *HEAVY}


def test_importing_every_core_module_loads_no_optional_package() -> None:
    loaded = loaded_by(
        "import pkgutil, importlib, seqtex_core\n"
        "for m in pkgutil.walk_packages(seqtex_core.__path__, 'seqtex_core.'):\n"
        "    '_kernels' in m.name or importlib.import_module(m.name)\n"
    )
    assert "seqtex_core.frames" in loaded
    assert not loaded & set(HEAVY)
