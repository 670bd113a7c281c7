"""Checks of what a backbone says about itself."""

from __future__ import annotations

import itertools

import torch

from ..adapter import SHAREABLE, BackboneBlock, BackboneShell
from .harness import Harness


class ContractChecks(Harness):
    """Its numbers, names and declarations; the other checks need them."""

    def test_the_shell_declares_what_branches_share(self) -> None:
        """Without it the default configuration is refused; ``()`` where there is no such part."""
        shell = self.make_backbone().shell
        missing = sorted(set(SHAREABLE) - {"cross_attn"} - set(shell.shareable))
        assert not missing, f"{type(shell).__name__}.shareable does not name {', '.join(missing)}"

    def test_spec_describes_the_modules(self) -> None:
        """Numbers, adapter targets and shareable parts name what is there."""
        backbone = self.make_backbone()
        spec = backbone.spec
        assert len(backbone.blocks) == spec.num_blocks
        adapted: set[str] = set()
        for block in backbone.blocks:
            assert block.num_heads == spec.num_heads
            assert (block.text_rows() is not None) == spec.joint_text
            targets = block.own_lora_targets(spec)
            assert targets, f"a block has none of the adapter targets {spec.lora_targets}"
            for target in targets:
                assert isinstance(block.get_submodule(target), torch.nn.Linear), target
            adapted.update(targets)
        missing = sorted(set(spec.lora_targets) - adapted)
        assert not missing, f"adapter targets that no block has: {', '.join(missing)}"
        parts: list[BackboneShell | BackboneBlock] = [backbone.shell, *backbone.blocks]
        for part in parts:
            for name in itertools.chain(*part.shareable.values(), part.common):
                part.get_submodule(name)
        assert {key for part in parts for key in part.shareable} <= set(SHAREABLE)

    def test_original_keys_only_renames(self) -> None:
        """The same tensor objects, each under one name; blocks alone work too."""
        backbone = self.make_backbone()
        shell = backbone.shell.state_dict(keep_vars=True)
        blocks = [block.state_dict(keep_vars=True) for block in backbone.blocks]
        given = {id(t) for state in (shell, *blocks) for t in state.values()}
        named = backbone.original_keys(shell, blocks)
        assert {id(tensor) for tensor in named.values()} == given
        assert len(named) == len(given)
        of_blocks = backbone.original_keys({}, blocks)
        assert len(of_blocks) == sum(len(block) for block in blocks)
        assert of_blocks.items() <= named.items()
