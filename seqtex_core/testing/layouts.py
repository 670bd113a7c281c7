"""Checks of token layouts: packing, several groups per stream, batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..attention import attention_reference
from ..attention.attend import AttentionInputs
from ..frames import TokenLayout
from ..packed_layout import PackedLayout
from ..transformer import SeqTexTransformer
from .harness import Harness, Inputs, assert_same


class KeyMask:
    """Attention that hides keys, told apart by the numbers of queries and keys.

    Args:
        visible: per ``(queries, keys)`` which keys may be seen, boolean ``[Lk]``.
    """

    name = "key_mask"

    def __init__(self, visible: Mapping[tuple[int, int], Tensor]) -> None:
        self.visible = visible
        self.used: set[tuple[int, int]] = set()

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """Always ``None``."""
        del inputs
        return None

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Plain attention over the visible keys."""
        assert mask is None
        lengths = (q.shape[1], k.shape[1])
        if lengths in self.visible:
            self.used.add(lengths)
            mask = self.visible[lengths][None, None, None]
        return attention_reference(q, k, v, mask=mask, scale=scale)


class LayoutChecks(Harness):
    """Sequences are lists of frame groups."""

    def test_packed_tokens_equal_the_dense_run_with_hidden_keys(self) -> None:
        """Dropping tokens is the same as hiding their keys and ignoring their rows."""
        tokens = {"views": (3, 3, 3), "texture": (1, 5, 5)}
        keep = {
            "views": torch.tensor([0, 1, 4, 7, 8, 9, 13, 25, 26]),
            "texture": torch.tensor([2, 3, 5, 11, 12, 18, 24]),
        }
        if self.copy is not None:
            keep[self.copy.source] = torch.tensor([0, 1, 4, 7, 9, 13, 15, 19, 21, 23])
        packed = self.make_transformer()
        inputs = self.make_inputs(packed, tokens, keep=keep)
        got = self.velocity(packed, inputs)

        dense_layout = TokenLayout.of(inputs.layout.groups)
        visible = {name: torch.zeros(group_tokens(dense_layout, name)).bool() for name in keep}
        for name, index in keep.items():
            visible[name][index] = True
        uv = torch.cat([visible[name] for name in inputs.names("uv")])
        num_text = inputs.text.shape[1] if packed.spec.joint_text else 0
        mv = torch.cat([torch.ones(num_text).bool(), visible["views"]])
        masks = {(len(mv), len(mv)): mv, (len(uv), len(mv) + len(uv)): torch.cat([mv, uv])}
        mask = KeyMask(masks)
        dense = self.make_transformer(attention=mask)
        geometry = {
            name: replace(maps, points=self._hidden(packed, inputs, name))
            for name, maps in inputs.geometry.items()
        }
        want = self.velocity(dense, replace(inputs, layout=dense_layout, geometry=geometry))
        assert mask.used == set(masks)
        for name in want:
            shown = self._shown(packed, inputs, name)
            assert bool((got[name][~shown] == 0).all()), f"{name}: dropped tokens have a velocity"
            # Another attention kernel and another number of keys: a few roundings.
            self.assert_close(name, got[name][shown], want[name][shown], times=4)

    def test_hidden_text_rows_are_as_if_they_were_not_there(self) -> None:
        """In both branches; they may lie anywhere but first, elsewhere in each sample."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer, batch=2)
        mask = torch.ones(inputs.text.shape[:2]).bool()
        assert_same(
            "nothing hidden",
            self.velocity(transformer, replace(inputs, text_mask=mask)),
            self.velocity(transformer, inputs),
        )
        mask[0, [1, -2, -1]] = mask[1, [2, -1]] = False
        text = torch.where(mask[..., None], inputs.text, 3.0)
        got = self.velocity(transformer, replace(inputs, text=text, text_mask=mask))
        for index in range(2):
            alone = sample(inputs, index)
            short = alone.text[:, mask[index]]
            want = self.velocity(transformer, replace(alone, text=short))
            for name in want:
                # Another attention kernel and another number of keys: a few roundings.
                part = got[name][index : index + 1]
                self.assert_close(f"{name}[{index}]", part, want[name], times=4)

    def test_packing_with_all_tokens_kept_changes_nothing(self) -> None:
        """An index of every token: bit-equal."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        keep = {g.name: torch.arange(g.grid.num_tokens) for g in inputs.layout.groups}
        packed = replace(inputs, layout=TokenLayout(groups=inputs.layout.groups, keep=keep))
        assert_same(
            "velocity", self.velocity(transformer, packed), self.velocity(transformer, inputs)
        )

    def test_a_frame_may_lose_all_its_tokens(self) -> None:
        """Then the others are what they are without it, at their own temporal positions."""
        transformer = self.make_transformer()
        keep = {"views": torch.arange(6, 18)}
        inputs = self.make_inputs(
            transformer, {"views": (3, 2, 3), "texture": (1, 4, 5)}, keep=keep
        )
        before = self.velocity(transformer, inputs)
        inputs.latents["views"][:, :, : transformer.spec.patch_size[0]] += 1.0
        inputs.sigmas["views"][:, : transformer.spec.patch_size[0]] = 0.0
        after = self.velocity(transformer, inputs)
        assert_same("texture", {"t": after["texture"]}, {"t": before["texture"]})

    def test_groups_of_equal_frames_may_be_split(self) -> None:
        """Three views as one group or as two groups: the same velocities."""
        transformer = self.make_transformer()
        whole = self.make_inputs(transformer, {"views": (3, 2, 3), "texture": (1, 4, 5)})
        split = self.make_inputs(
            transformer, {"views": (2, 2, 3), "more_views": (1, 2, 3), "texture": (1, 4, 5)}
        )
        at = 2 * transformer.spec.patch_size[0]
        for wanted, given, axis in (
            (split.latents, whole.latents, 2),
            (split.sigmas, whole.sigmas, 1),
        ):
            wanted.update(given)
            size = given["views"].shape[axis]
            wanted["views"], wanted["more_views"] = given["views"].split((at, size - at), axis)
        split.geometry.update(whole.geometry)
        maps = whole.geometry["views"]
        split.geometry["views"] = maps.each(lambda tensor: tensor[:, :, :at])
        split.geometry["more_views"] = maps.each(lambda tensor: tensor[:, :, at:])
        same = {"text": whole.text, "image": whole.image, "pooled_text": whole.pooled_text}
        got = self.velocity(transformer, split, clean=whole.clean, **same)
        want = self.velocity(transformer, whole)
        views = torch.cat([got["views"], got["more_views"]], dim=2)
        self.assert_close("views", views, want["views"])
        self.assert_close("texture", got["texture"], want["texture"])

    def test_groups_of_different_sizes_in_both_streams(self) -> None:
        """Two sizes of views, a texture and a material map; each keeps its shape and levels."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(
            transformer,
            {
                "views": (2, 2, 3),
                "more_views": (1, 3, 3),
                "texture": (1, 4, 5),
                "material": (2, 2, 2),
            },
        )
        got = self.velocity(transformer, inputs)
        for name, latents in inputs.latents.items():
            assert got[name].shape == latents.shape
            assert bool(got[name].isfinite().all())
        # The material comes after the texture, so the texture's positions do not depend on it;
        # its tokens are keys of the texture all the same, so the velocities must differ.
        mv = self.velocity(transformer, inputs)
        assert_same("second run", mv, got)
        inputs.latents["material"] += 1.0
        moved = self.velocity(transformer, inputs)
        assert not torch.equal(moved["texture"], got["texture"])
        assert_same("views", {"v": moved["views"]}, {"v": got["views"]})

    def test_a_batch_equals_its_samples(self) -> None:
        """Two samples together or one after the other."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer, batch=2)
        got = self.velocity(transformer, inputs)
        for index in range(2):
            want = self.velocity(transformer, sample(inputs, index))
            for name in want:
                part = got[name][index : index + 1]
                # Weights of copies are exponents of up to 100, each with 6e-8 of that.
                times = 4 if self.copy is not None and name == self.copy.target else 1
                self.assert_close(f"{name}[{index}]", part, want[name], times=times)

    def test_samples_that_keep_different_tokens_equal_their_own_runs(self) -> None:
        """Packed one after the other; a frame may be empty, text partly hidden."""
        transformer = self.make_transformer()
        tokens = {"views": (2, 3, 3), "more_views": (1, 2, 3), "texture": (1, 4, 5)}
        inputs = self.make_inputs(transformer, tokens, batch=3)
        keep = {
            "views": [torch.tensor(i) for i in ([0, 4, 9, 10], [12], [0, 1, 2, 8, 10, 17])],
            "more_views": [torch.tensor(i) for i in ([1, 5], [0, 2, 3], [4])],
            "texture": [torch.tensor(i) for i in ([3], [0, 7, 8, 19], [*range(20)])],
        }
        if self.copy is not None:  # of the second sample, nothing is known
            some = [torch.tensor(i) for i in ([1, 2, 7, 13, 15], [0, 3, 5, 9, 11, 17])]
            keep[self.copy.source] = [some[0], some[0][:0], some[1]]
        packed = PackedLayout.of(inputs.layout, keep)
        mask = torch.ones(inputs.text.shape[:2]).bool()
        mask[1, -2:] = False
        together = replace(inputs, packed=packed, text_mask=mask)
        for precompute in (True, False):
            got = self.velocity(transformer, together, precompute=precompute)
            for index, layout in enumerate(packed.samples):
                alone = replace(sample(together, index), layout=layout)
                want = self.velocity(transformer, alone)
                for name in want:
                    part = got[name][index : index + 1]
                    # Sums of other lengths in the products, another kernel without a mask.
                    self.assert_close(f"{name}[{index}]", part, want[name], times=4)

    def test_geometry_of_one_object_serves_a_batch(self) -> None:
        """Maps with a batch of 1 are spread over all samples."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer, batch=2)
        single = {n: maps.each(lambda x: x[:1]) for n, maps in inputs.geometry.items()}
        double = {n: maps.each(lambda x: x.repeat(2, 1, 1, 1, 1)) for n, maps in single.items()}
        got = self.velocity(transformer, inputs, geometry=single)
        want = self.velocity(transformer, inputs, geometry=double)
        for name in want:
            self.assert_close(name, got[name], want[name])

    def _hidden(self, transformer: SeqTexTransformer, inputs: Inputs, name: str) -> Tensor | None:
        """Points of the kept tokens; a copy head takes the others for background."""
        points = inputs.geometry[name].points
        if points is None:
            return None
        return points * self._shown(transformer, inputs, name)[:, :1]

    def _shown(self, transformer: SeqTexTransformer, inputs: Inputs, name: str) -> Tensor:
        """Which latents belong to kept tokens, boolean, shaped like the latents."""
        spec, layout = transformer.spec, inputs.layout
        grid = layout.group(name).grid
        flags = torch.zeros(grid.num_tokens).index_fill(0, layout.keep[name], 1.0)
        blocks = flags.view(1, 1, grid.frames, grid.height, grid.width)
        for axis, patch in enumerate(spec.patch_size):
            blocks = blocks.repeat_interleave(patch, dim=axis + 2)
        return blocks.bool().expand_as(inputs.latents[name])


def group_tokens(layout: TokenLayout, name: str) -> int:
    """Tokens of a group without packing."""
    return layout.group(name).grid.num_tokens


def sample(inputs: Inputs, index: int) -> Inputs:
    """One sample of a batch."""
    pick = slice(index, index + 1)
    return replace(
        inputs,
        latents={name: value[pick] for name, value in inputs.latents.items()},
        sigmas={name: value[pick] for name, value in inputs.sigmas.items()},
        geometry={n: maps.each(lambda tensor: tensor[pick]) for n, maps in inputs.geometry.items()},
        text=inputs.text[pick],
        text_mask=None if inputs.text_mask is None else inputs.text_mask[pick],
        pooled_text=None if inputs.pooled_text is None else inputs.pooled_text[pick],
        image=None if inputs.image is None else inputs.image[pick],
        packed=None,
        clean={name: value[pick] for name, value in inputs.clean.items()},
    )
