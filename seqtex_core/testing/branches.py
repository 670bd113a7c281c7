"""Checks of the two branches: what each reads, and that caches change nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapter import SHAREABLE, BackboneShell
from ..decoupled_config import DecoupledConfig
from ..muv_block import UV_KEY_SOURCES, BranchInputs, BranchTimes, Hidden
from ..query_key import GEOMETRY_ORDERS
from ..text_rows import text_sigma
from ..transformer import SeqTexTransformer
from .harness import Harness, Inputs, assert_differs, assert_same
from .plain_block import PlainMUVBlock

SHARES: tuple[frozenset[str], ...] = (frozenset(SHAREABLE), frozenset())


class BranchChecks(Harness):
    """Multi-view and UV branch together."""

    def test_uv_block_0_equals_joint_attention_at_init(self) -> None:
        """With ``norm_pre_attn`` the pretrained model's own last frame; not with the others."""
        for source in UV_KEY_SOURCES:
            config = DecoupledConfig(uv_key_source=source, lora_rank=4)
            transformer = self.make_transformer(config, random=False)
            split = self.make_inputs(transformer, {"views": (3, 2, 3), "texture": (1, 2, 3)})
            names = split.names("uv")
            split.sigmas.update(dict.fromkeys(names, self._level_of_joint_text(transformer, split)))
            joint = self.make_inputs(transformer, {"views": (3 + len(names), 2, 3)})
            for values, wanted in (
                (joint.latents, split.latents),
                (joint.sigmas, split.sigmas),
            ):
                axis = 2 if wanted["views"].ndim == 5 else 1
                values["views"] = torch.cat([wanted[n] for n in ("views", *names)], dim=axis)
            joint = replace(
                joint, text=split.text, image=split.image, pooled_text=split.pooled_text
            )
            got = self._after_block(transformer, split, block=0).uv
            want = self._after_block(transformer, joint, block=0).mv
            assert got is not None
            want = want[:, -got.shape[1] :]
            if source == "norm_pre_attn":
                self.assert_close("uv rows after block 0", got, want)
            else:
                assert_differs(source, got, want, least=100 * self.tolerance)

    def test_a_shared_cross_attention_serves_both_branches_at_once(self) -> None:
        """With norms that differ between the branches; on a GPU it is the rule."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        made = []
        with torch.no_grad():
            for together in (False, True):
                for block in transformer.muv_blocks():
                    block.cross_together = together
                cache = self.prepare(transformer, inputs)
                made.append(transformer(inputs.latents, inputs.sigmas, cache))
        for name in inputs.latents:
            self.assert_close(name, made[1][name], made[0][name])

    def test_mv_never_reads_uv(self) -> None:
        """Bit-equal views whatever the texture holds, and when its branch is skipped."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        cache = self.prepare(transformer, inputs)
        with torch.no_grad():
            before = transformer(inputs.latents, inputs.sigmas, cache)
            skipped = transformer(*inputs.of_stream("mv"), cache)
            inputs.latents["texture"] += 1.0
            inputs.sigmas["texture"] *= 0.5
            after = transformer(inputs.latents, inputs.sigmas, cache)
        views = {"views": before["views"]}
        assert_same("views, another texture", {"views": after["views"]}, views)
        assert_same("views, no texture", skipped, views)
        assert_differs("texture", after["texture"], before["texture"], least=1e-3)

    def test_uv_reads_mv(self) -> None:
        """Other views, another texture."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        before = self.velocity(transformer, inputs)["texture"]
        inputs.latents["views"] += 1.0
        after = self.velocity(transformer, inputs)["texture"]
        assert_differs("texture", after, before, least=100 * self.tolerance)

    def test_precomputed_cache_changes_nothing(self) -> None:
        """Geometry and context computed once or in every block: bit-equal."""
        for order in GEOMETRY_ORDERS:
            transformer = self.make_transformer(DecoupledConfig(geometry_order=order, lora_rank=4))
            inputs = self.make_inputs(transformer)
            cached = self.velocity(transformer, inputs, precompute=True)
            assert_same(order, self.velocity(transformer, inputs, precompute=False), cached)

    def test_every_option_matches_the_plain_block(self) -> None:
        """Both geometry orders and all key sources, against the equations written out."""
        seen: list[Tensor] = []
        rotates = self._rotates()
        orders = GEOMETRY_ORDERS if rotates else GEOMETRY_ORDERS[:1]
        options = itertools.product(orders, UV_KEY_SOURCES, SHARES)
        for order, source, share in options:
            config = DecoupledConfig(
                geometry_order=order, uv_key_source=source, uv_share=share, lora_rank=4
            )
            transformer = self.make_transformer(config)
            inputs = self.make_inputs(transformer, batch=2)
            got = self.velocity(transformer, inputs)
            blocks = [PlainMUVBlock.of(block) for block in transformer.muv_blocks()]
            transformer.blocks = torch.nn.ModuleList(blocks)
            want = self.velocity(transformer, inputs, precompute=False)
            for name in want:
                # Rotation, norm and softmax are each computed by another kernel: a few roundings.
                self.assert_close(f"{order}, {source}, {name}", got[name], want[name], times=4)
            for other in seen:
                assert_differs("two options", got["texture"], other, least=100 * self.tolerance)
            seen.append(got["texture"])

    @torch.no_grad()
    def test_each_branch_encodes_with_its_own_weights(self) -> None:
        """Nothing shared: levels, text, patches and prediction of uv come from the uv shell."""
        transformer = self.make_transformer(DecoupledConfig(uv_share=frozenset(), lora_rank=4))
        inputs = self.make_inputs(transformer)
        mv, uv = transformer.shells["mv"], transformer.shells["uv"]
        assert isinstance(mv, BackboneShell)
        assert isinstance(uv, BackboneShell)
        hidden, branches, times = self._arguments_of_block_0(transformer, inputs)
        levels, rows = inputs.sigmas, inputs.layout.streams["uv"]
        given = {"mask": inputs.text_mask, "pooled": inputs.pooled_text}
        of_mv = mv.encode_text(inputs.text, inputs.image, **given)
        of_uv = uv.encode_text(inputs.text, inputs.image, **given)
        expected = [
            ("mv levels", times.mv, mv.encode_time(levels["views"], of_mv.pooled)),
            ("uv levels", times.uv, uv.encode_time(rows.join(levels), of_uv.pooled)),
            ("mv levels for uv", times.mv_as_keys, uv.encode_time(levels["views"], of_uv.pooled)),
        ]
        if transformer.spec.joint_text:
            highest = levels["views"].amax(dim=1, keepdim=True)
            expected.append(("text level", times.text, mv.encode_time(highest, of_mv.pooled)))
            of_text = uv.encode_time(text_sigma(rows.join(levels), rows), of_uv.pooled)
            expected.append(("text level for uv", times.text_as_keys, of_text))
            assert hidden.text is not None
            assert torch.equal(hidden.text, mv.initial_text(of_mv, highest))
        for what, got, want in expected:
            assert got is not None
            assert torch.equal(got.projected, want.projected), what
            assert torch.equal(got.embedding, want.embedding), what
        for stream, want_text in (("mv", of_mv.text), ("uv", of_uv.text)):
            assert torch.equal(branches[stream].context.text, want_text), stream
        tokens = {n: uv.embed(inputs.latents[n], levels[n]) for n in inputs.names("uv")}
        embedded, position = inputs.layout.pack_stream("uv", tokens), branches["uv"].position
        assert hidden.uv is not None
        assert torch.equal(hidden.uv, embedded if position is None else embedded + position)
        predicted = self._after_block(transformer, inputs, block=-1)
        name = inputs.names("uv")[0]  # with a copy head, what it copies from
        got_velocity = self.velocity(transformer, inputs)[name]
        assert times.uv is not None
        assert predicted.uv is not None
        head = uv.head(predicted.uv, times.uv, rows)
        part = inputs.layout.unpack_stream("uv", head)[name]
        latents = uv.unpatchify(part, inputs.layout.group(name).grid)
        want_velocity = uv.to_velocity(latents, inputs.latents[name], levels[name])
        assert torch.equal(got_velocity, want_velocity)

    def test_geometry_matters_in_both_branches(self) -> None:
        """Without geometry, or without any but the points for a copy head, other velocities."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        full = self.velocity(transformer, inputs)
        zeros = {
            name: replace(maps.each(torch.zeros_like), points=maps.points)
            for name, maps in inputs.geometry.items()
        }
        bare = self.velocity(transformer, inputs, geometry=zeros if self.copy else None)
        for name in full:
            assert_differs(name, bare[name], full[name], least=100 * self.tolerance)

    def test_uv_share_gives_the_same_function_at_init(self) -> None:
        """A copied part starts as what it was copied from."""
        names = ("cross_attn", "patch_embed", "time_text", "proj_out")
        outputs = [
            self._velocity_with_share(frozenset(share))
            for share in ((), names, *((name,) for name in names))
        ]
        for output in outputs[1:]:
            assert_same("velocity", output, outputs[0])

    def _level_of_joint_text(self, transformer: SeqTexTransformer, split: Inputs) -> Tensor:
        """A level of the texture, ``[B, 1]``, at which text rows are the same split and joint.

        Joint, text has the highest level of all frames; as keys of the texture, the texture's. So
        the texture must be the noisiest; where the mv branch makes text rows according to its own
        level, no noisier than the views.
        """
        highest = split.sigmas["views"].amax(dim=1, keepdim=True)
        above = 0.5 * (1.0 + highest)
        cache = self.prepare(transformer, split)
        shell, context = transformer.backbone.shell, cache.branches["mv"].context
        rows = [shell.initial_text(context, level) for level in (highest, above)]
        return above if torch.equal(*rows) else highest

    def _rotates(self) -> bool:
        """Whether the model has rotary positions; without, both geometry orders are the same."""
        transformer = self.make_transformer()
        layout = self.make_inputs(transformer).layout
        return transformer.backbone.shell.rope(layout) is not None

    def _velocity_with_share(self, share: frozenset[str]) -> dict[str, Tensor]:
        config = DecoupledConfig(uv_share=share, lora_rank=4)
        transformer = self.make_transformer(config, random=False)
        return self.velocity(transformer, self.make_inputs(transformer))

    @torch.no_grad()
    def _arguments_of_block_0(
        self, transformer: SeqTexTransformer, inputs: Inputs
    ) -> tuple[Hidden, dict[str, BranchInputs], BranchTimes]:
        seen: list[tuple[Any, ...]] = []
        block = next(transformer.muv_blocks())
        hook = block.register_forward_pre_hook(lambda module, args: seen.append(args))
        self.velocity(transformer, inputs)
        hook.remove()
        hidden, branches, times, *_ = seen[0]
        return hidden, branches, times

    @torch.no_grad()
    def _after_block(self, transformer: SeqTexTransformer, inputs: Inputs, *, block: int) -> Hidden:
        """Residual streams after a block."""
        seen: list[Hidden] = []
        chosen = list(transformer.muv_blocks())[block]
        hook = chosen.register_forward_hook(lambda module, args, output: seen.append(output))
        self.velocity(transformer, inputs)
        hook.remove()
        return seen[0]
