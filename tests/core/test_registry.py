"""Registries: laziness, entry points, helpful refusals."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from seqtex_core import registry as registry_module
from seqtex_core.errors import MissingDependencyError, UsageError
from seqtex_core.registry import Registry


@pytest.fixture
def lazy_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lazy_entry_module.py").write_text("VALUE = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("lazy_entry_module", None)
    return "lazy_entry_module:VALUE"


def test_listing_imports_nothing_and_getting_imports_once(lazy_module: str) -> None:
    table: Registry[object] = Registry("thing", {"a": lazy_module})
    assert table.names() == ["a"]
    assert "a" in table
    assert list(table) == ["a"]
    assert "lazy_entry_module" not in sys.modules
    first = table.get("a")
    assert first is sys.modules["lazy_entry_module"].VALUE
    assert table.get("a") is first


def test_registered_objects_come_back() -> None:
    table: Registry[list[int]] = Registry("thing")
    entry = [1]
    table.register("mine", entry)
    assert table.get("mine") is entry


def test_duplicates_are_refused() -> None:
    table: Registry[object] = Registry("thing", {"a": "sys:path"})
    with pytest.raises(UsageError, match="'a'"):
        table.register("a", object())
    assert table.get("a") is sys.path


def test_unknown_names_get_the_known_ones_and_the_closest() -> None:
    table: Registry[object] = Registry("backbone", {"wan-tiny": "sys:path", "other": "sys:argv"})
    with pytest.raises(UsageError, match=r"other, wan-tiny.*Did you mean 'wan-tiny'"):
        table.get("wan-tny")
    with pytest.raises(UsageError) as caught:
        table.get("zzz")
    assert caught.value.remedy == ""


def test_a_name_that_nobody_declares_points_to_a_package_that_is_not_installed() -> None:
    lazy = {"ltx-video-tiny": "sys:path"}
    table: Registry[object] = Registry("backbone", lazy, entry_point_group="seqtex.nothings")
    with pytest.raises(UsageError, match=r"'seqtex\.nothings'") as caught:
        table.get("allegro-tiny")  # from a plug-in; not a slip of the other name
    assert "Did you mean" not in caught.value.remedy


def test_entry_points_of_other_distributions(
    lazy_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint(name="theirs", value=lazy_module, group="seqtex.things")

    def points(*, group: str) -> EntryPoints:
        return EntryPoints([point] if group == "seqtex.things" else [])

    monkeypatch.setattr(registry_module, "entry_points", points)
    table: Registry[object] = Registry(
        "thing", {"ours": "sys:path"}, entry_point_group="seqtex.things"
    )
    assert table.names() == ["ours", "theirs"]
    assert "lazy_entry_module" not in sys.modules
    assert table.get("theirs") is sys.modules["lazy_entry_module"].VALUE
    assert Registry("thing", {}, entry_point_group="another").names() == []


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """Entries of ours, and those of a package in which something is wrong with each."""
    values = {"gone": "no_such_module:X", "renamed": "sys:no_such_name", "mine": "sys:argv"}

    def points(*, group: str) -> EntryPoints:
        return EntryPoints(EntryPoint(name=n, value=v, group=group) for n, v in values.items())

    monkeypatch.setattr(registry_module, "entry_points", points)
    return Registry("thing", {"mine": "sys:path"}, entry_point_group="seqtex.things")


@pytest.mark.parametrize(
    ("name", "got"), [("gone", "No module named 'no_such_module'"), ("renamed", "no_such_name")]
)
def test_packages_that_do_not_import_are_named(
    broken: Registry[object], name: str, got: str
) -> None:
    with pytest.raises(MissingDependencyError, match=got) as caught:
        broken.get(name)
    assert caught.value.subject == f"thing {name!r}"
    assert "another package" in caught.value.remedy


def test_a_listing_survives_packages_that_do_not_import(broken: Registry[object]) -> None:
    states = dict(broken.states(lambda entry: None if entry is sys.path else "another"))
    assert states["mine"] is None
    assert "no_such_module" in str(states["gone"])
    assert "no_such_name" in str(states["renamed"])


def test_a_name_of_ours_stays_ours_with_a_warning(
    broken: Registry[object], caplog: pytest.LogCaptureFixture
) -> None:
    assert broken.names() == ["gone", "mine", "renamed"]
    assert broken.get("mine") is sys.path
    assert [record.getMessage() for record in caplog.records] == [
        "thing 'mine' is seqtex's own: that of another package is not used"
    ]


@pytest.mark.parametrize(
    ("module", "registry", "group"),
    [
        ("seqtex_core.attention.choose", "ATTENTION", "seqtex.attention"),
        ("seqtex_core.tasks", "TASKS", "seqtex.tasks"),
        ("seqtex_backbones.registry", "BACKBONES", "seqtex.backbones"),
        ("seqtex_backbones.entry_config", "ARCHITECTURES", "seqtex.architectures"),
        ("seqtex_backbones.codecs.protocol", "CODECS", "seqtex.codecs"),
        ("seqtex_backbones.unipc", "SAMPLERS", "seqtex.samplers"),
    ],
)
def test_every_table_is_open_to_other_distributions(
    monkeypatch: pytest.MonkeyPatch, module: str, registry: str, group: str
) -> None:
    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name=f"from {group}", value="sys:path", group=group)]

    monkeypatch.setattr(registry_module, "entry_points", points)
    table = getattr(importlib.import_module(module), registry)
    monkeypatch.setattr(table, "_others", None)  # as if it had not been asked for before
    assert f"from {group}" in table.names()
    assert len(table.names()) > 1
