"""The suite itself: its order, backbones without an original, backbones that break the contract.

The backbone is that of docs/components.md, whose program is run for it.
"""

from __future__ import annotations

import re
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance
from seqtex_core.testing.contract import ContractChecks
from seqtex_core.testing.training import TrainingChecks

GUIDE = Path(__file__).parents[2] / "docs" / "components.md"
AGAINST_AN_ORIGINAL = {
    "test_mv_equals_the_original_at_one_level",
    "test_mv_equals_the_original_with_levels_per_frame",
    "test_mv_with_adapters_equals_the_original_with_merged_weights",
    "test_fully_trained_mv_branch_is_the_original_too",
    "test_bfloat16_is_as_accurate_as_the_original",
    "test_weights_reach_the_original_under_its_own_names",
}

OF_HIDDEN_TEXT = "test_mv_equals_the_original_with_hidden_text"


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the guide's program defines; it writes a file where it runs."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("guide"))
        exec(compile(program, str(GUIDE), "exec"), names)
    return names


def suite_of(guide: dict[str, Any], **spec: object) -> type[BackboneConformance]:
    class Suite(BackboneConformance):
        def make_backbone(self) -> Backbone:
            torch.manual_seed(0)
            made: Backbone = guide["Plain"]()
            made.spec = replace(made.spec, **spec)  # type: ignore[arg-type]
            return made

    return Suite


def test_a_backbone_without_an_original_passes_all_other_checks(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor has it text, RoPE or norms of queries and keys; training is left out for time."""
    suite = suite_of(guide)
    names = [name for name in suite.checks() if name not in vars(TrainingChecks)]
    monkeypatch.setattr(suite, "checks", staticmethod(lambda: names))
    assert set(names) - set(suite().run()) == {*AGAINST_AN_ORIGINAL, OF_HIDDEN_TEXT}
    with pytest.raises(unittest.SkipTest, match="plain has no original"):
        suite().test_mv_equals_the_original_at_one_level()
    with pytest.raises(NotImplementedError, match="Plain has no original"):
        suite().make_backbone().reference_velocity({}, *[torch.zeros(1)] * 3)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotImplementedError, unittest.SkipTest),
        (NotImplementedError("no such operation on this device"), NotImplementedError),
    ],
)
def test_an_original_may_be_refused_but_must_not_fail(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(guide["Plain"], "reference_velocity", fail)
    with pytest.raises(kind):
        suite_of(guide)().test_mv_equals_the_original_at_one_level()


def test_declarations_are_checked_first(guide: dict[str, Any]) -> None:
    checks = suite_of(guide).checks()
    assert checks[0] == "test_the_shell_declares_what_branches_share"
    assert set(checks[:3]) == {name for name in vars(ContractChecks) if name.startswith("test_")}


def test_what_a_shell_does_not_declare_is_named(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(guide)
    monkeypatch.setattr(guide["PlainShell"], "shareable", {"time_text": ("time",)})
    with pytest.raises(AssertionError, match="does not name patch_embed, proj_out"):
        suite().run()


def test_adapter_targets_that_no_block_has_are_named(guide: dict[str, Any]) -> None:
    suite = suite_of(guide, lora_targets=("to_q", "to_kvv"))
    with pytest.raises(AssertionError, match="no block has: to_kvv"):
        suite().run()
