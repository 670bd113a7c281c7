"""Entries that another distribution may declare, and the mistakes that it may make in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seqtex_backbones.diffusers_parts.attention import qk_norm
from seqtex_backbones.registry import BACKBONES, empty_backbone, load_backbone, native_tensors
from seqtex_backbones.wan.configs import WAN_TINY, WanEntry
from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class WithTable(WanEntry):
    """A model with a table that is no weight, made on the named device or the default one."""

    made_on: str | None = None

    def build(self) -> Backbone:
        backbone = super().build()
        table = torch.arange(4.0, device=self.made_on)
        backbone.shell.register_buffer("table", table, persistent=False)
        return backbone


class ReadsItsTable(WanEntry):
    def build(self) -> Backbone:
        assert torch.arange(4).tolist() == [0, 1, 2, 3]
        return super().build()


def like_wan_tiny(kind: type[WanEntry], **options: str) -> WanEntry:
    return kind(name="theirs", summary="a plug-in", config=WAN_TINY.config, **options)


def test_tables_have_values_where_weights_have_no_memory(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_file(native_tensors(load_backbone(WAN_TINY, seed=0)), weights)
    entry = like_wan_tiny(WithTable, made_on="cpu")
    for backbone in (load_backbone(entry, weights=weights), empty_backbone(entry)):
        assert backbone.shell.get_buffer("table").tolist() == [0, 1, 2, 3]


def test_tables_go_where_the_weights_go() -> None:
    backbone = load_backbone(like_wan_tiny(WithTable), seed=0, device="meta")
    assert backbone.shell.get_buffer("table").is_meta


@pytest.mark.parametrize("kind", [WithTable, ReadsItsTable])
def test_tables_made_without_memory_are_told_when_the_model_is_built(kind: type[WanEntry]) -> None:
    entry = like_wan_tiny(kind)
    load_backbone(entry, seed=0)  # with memory all is well
    with pytest.raises(UsageError, match="device='cpu'") as caught:
        empty_backbone(entry)
    assert "'theirs'" in caught.value.subject


def test_other_errors_of_build_are_the_plug_ins_own() -> None:
    class Fails(WanEntry):
        def build(self) -> Backbone:
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        empty_backbone(like_wan_tiny(Fails))


@pytest.mark.parametrize(("entry", "got"), [(WanEntry, "<class"), (nn.Identity(), "without name")])
def test_what_is_no_entry_is_refused(
    entry: object, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES._entries, "theirs", entry)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=got) as caught:
        load_backbone("theirs", seed=0)
    assert "'theirs'" in caught.value.subject


def test_models_without_norms_of_queries_and_keys_have_none() -> None:
    assert qk_norm(None, "head") is None
    assert qk_norm(nn.LayerNorm(8), "head") is not None
