"""Registries: laziness, entry points, helpful refusals."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from seqtex_core import registry as registry_module
from seqtex_core.errors import UsageError
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
    assert "Did you mean" not in str(caught.value)


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
