"""The decoupled-branch wrapper: any backbone, doubled into a multi-view and a UV branch.

Source:
    SeqTex (arXiv 2507.04285), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adapter import Backbone, BackboneShell, TimeEmbedding, copy_for_branch
from .attention import Attend, choose_attention
from .branch_data import BranchInputs, BranchTimes, Hidden
from .branch_data import StepCache as StepCache
from .checks import check_type
from .copy_head import CopyHead
from .copy_places import copied_latents, copied_velocity, prepare_copies
from .decoupled_config import DecoupledConfig
from .errors import UsageError
from .frames import FrameGroup, Stream, TokenLayout
from .geometry_embedding import GeometryEmbedding, GeometryLatents, first_caster
from .lora import inject_lora, merged_state_dict
from .model_checks import (
    check_backbone,
    check_batches,
    check_object,
    check_step,
    weight_versions,
)
from .muv_block import MUVBlock
from .packed_inputs import joined_rope, positions, row_times
from .packed_layout import AnyLayout
from .text_input import readable_text
from .text_rows import text_sigma
from .trunk import Trunk, run_blocks


class SeqTexTransformer(nn.Module):
    """Predicts the velocity of every frame group from their noisy latents.

    Args:
        backbone: the pretrained (or seeded) model; its modules are taken over.
        config: how it is doubled.
        attention: name of the attention implementation, ``"auto"``, or one of your own.

    Raises:
        UsageError: an unknown attention implementation, no ``Backbone``, one with adapters already,
            adapter targets that no block has, or parts to share that it does not declare.

    Example:
        >>> cache = transformer.prepare(layout, geometry=geometry, text=text)
        >>> velocity = transformer({"views": x, "texture": y}, {"views": s, "texture": r}, cache)
    """

    def __init__(
        self,
        backbone: Backbone,
        config: DecoupledConfig | None = None,
        *,
        attention: str | Attend = "auto",
    ) -> None:
        super().__init__()
        self.config = DecoupledConfig() if config is None else config
        check_backbone(backbone, self.config)
        self.spec = backbone.spec
        self.backbone = backbone
        self.attend = choose_attention(attention) if isinstance(attention, str) else attention
        self.gradient_checkpointing = False
        self.trunk: Trunk = run_blocks
        share = self.config.uv_share
        embed = backbone.shell.new_latent_embed
        self.geometry = GeometryEmbedding(embed(), embed())
        like = next(self.geometry.parameters())
        copies = self.config.uv_branch == "copy"
        shell = copy_for_branch(backbone.shell, share) if copies else backbone.shell
        shells = {"mv": backbone.shell, "uv": shell}
        blocks = [
            MUVBlock(
                block,
                copy_for_branch(block, share) if copies else block,
                first_caster(
                    self.spec.dim,
                    self.spec.inner_dim,
                    like=like,
                    gain=self.config.geometry_gain,
                ),
                geometry_order=self.config.geometry_order,
                uv_key_source=self.config.uv_key_source,
            )
            for block in backbone.blocks
        ]
        self.shells = nn.ModuleDict(shells)
        self.blocks = nn.ModuleList(blocks)
        self.copy_head: CopyHead | None = None
        if self.config.copy is not None:
            channels = self.spec.latent_channels
            self.copy_head = CopyHead(self.spec.dim, channels, self.config.copy).to(like)
        self.requires_grad_(True)
        self.geometry.requires_grad_(self.config.geometry_use != "none")
        for one in blocks:
            one.geometry_caster.requires_grad_(self.config.geometry_use in ("attention", "both"))
        if self.config.mv_train == "lora":
            self._freeze_and_adapt()

    def layout(
        self,
        sizes: Mapping[str, tuple[int, int, int]],
        streams: Mapping[str, Stream],
        *,
        keep: Mapping[str, Tensor] | None = None,
    ) -> TokenLayout:
        """Token layout of latents with the given sizes.

        Args:
            sizes: latent frames, rows and columns by group name, in sequence order.
            streams: the stream of every group.
            keep: tokens that are present, see ``TokenLayout``.

        Raises:
            UsageError: groups without a stream, or sizes that are not multiples of the patch.
        """
        if set(sizes) != set(streams):
            raise UsageError("streams", expected=f"those of {[*sizes]}", got=str([*streams]))
        groups = tuple(
            FrameGroup(name=name, stream=streams[name], grid=self.spec.grid(name, size))
            for name, size in sizes.items()
        )
        return TokenLayout(groups=groups, keep=keep or {})

    def prepare(
        self,
        layout: AnyLayout,
        *,
        geometry: Mapping[str, GeometryLatents] | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        pooled_text: Tensor | None = None,
        image: Tensor | None = None,
        clean: Mapping[str, Tensor] | None = None,
        batch_size: int = 1,
        precompute: bool | None = None,
    ) -> StepCache:
        """Everything about one object and prompt that does not change over the sampling steps.

        It depends on the weights: in training, call it in every step, with gradients on, because
        those of the geometry embedding and of the casters pass through it; after loading or
        averaging weights, call it again.

        Args:
            layout: the token layout; a ``PackedLayout`` if samples keep different tokens.
            geometry: encoded geometry maps by group; all groups or none.
            text: text-encoder rows ``[B, S, text_dim]``; ``None`` for all-zero rows.
            text_mask: which of them may be read, boolean ``[B, S]``; ``None`` for all, or in models
                with ``spec.masks_text`` for those that are not zero, see ``readable_text``.
            pooled_text: summary ``[B, pooled_dim]`` for backbones with ``spec.pooled_dim``.
            image: image-encoder rows for image-to-video backbones. Optional.
            clean: clean latents by group, of which a copy head needs its source's.
            batch_size: batch of the all-zero text.
            precompute: cast geometry and context keys of all blocks now (default: when gradients
                are off). Without it every block recomputes its own.

        Raises:
            UsageError: no mv group, geometry for some groups only or of another size than the
                layout, text that does not fit, different batch sizes, or, with a copy head, missing
                groups, points or clean latents.
        """
        maps = {} if geometry is None else geometry
        check_object(layout, maps, self.backbone)
        for name, rows in (("text", text), ("image", image)):
            if rows is not None:
                check_type(name, rows, Tensor, remedy="Give the rows of an encoder.")
        place = next(self.geometry.parameters())
        if text is None:
            text = place.new_zeros(batch_size, self.spec.text_length, self.spec.text_dim)
        text, mask, pooled = readable_text(text.to(place), text_mask, pooled_text, self.spec)
        image = None if image is None else image.to(place)
        rope, position = positions(self._shell("mv"), layout)
        check_batches(layout, maps, text.shape[0])
        tokens = self._geometry_tokens(layout, maps, place)
        in_attention = tokens if self.config.geometry_use in ("attention", "both") else {}
        added = tokens if self.config.geometry_use in ("input", "both") else {}
        context = {
            s: self._shell(s).encode_text(text, image, mask=mask, pooled=pooled)
            for s in self._encoders(layout)
        }
        key_rope = joined_rope(rope, layout, place.device)
        branches = {
            stream: BranchInputs(
                rows=rows,
                context=context.get(stream, context["mv"]),
                rope=rope[stream].to(place.device) if rope else None,
                key_rope=key_rope if stream == "uv" else None,
                position=position[stream].to(place) if position else None,
                geometry_tokens=in_attention.get(stream),
                geometry_input=added.get(stream),
            )
            for stream, rows in layout.streams.items()
        }
        if precompute is None:
            precompute = not torch.is_grad_enabled()
        blocks = tuple(b.build_cache(branches) for b in self.muv_blocks()) if precompute else None
        return StepCache(
            layout=layout,
            branches=branches,
            blocks=blocks,
            copies=prepare_copies(
                layout, maps, clean or {}, self.config.copy, spec=self.spec, like=text
            ),
            with_gradients=torch.is_grad_enabled(),
            versions=weight_versions(self),
        )

    def forward(
        self, latents: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], cache: StepCache
    ) -> dict[str, Tensor]:
        """Velocity ``u = eps - x0`` of every group in ``latents``.

        Args:
            latents: ``x_sigma`` by group, ``[B, C, F, H, W]``. Leave out all groups of the uv
                stream to skip its branch; the mv stream never depends on it.
            sigmas: noise level per frame by group, ``[B, F]``, in [0, 1].
            cache: from ``prepare``.

        Returns:
            Velocities by group, shaped and typed like ``latents``; zero where a token was left
            out by ``layout.keep``.

        Raises:
            UsageError: groups missing from a stream, shapes, dtypes or devices that do not fit,
                levels outside [0, 1] (looked for on a CPU only), a cache made without gradients
                although weights learn, or one from before they were written to.
        """
        streams = check_step(latents, sigmas, cache, self)
        inputs = {s: cache.branches[s] for s in streams}
        sigma = {s: rows.rows.join(sigmas).float() for s, rows in inputs.items()}
        times = self._times(inputs, sigma)
        tokens = {s: self._embed(cache, s, latents, sigmas) for s in streams}
        text = None
        if self.spec.joint_text:
            level = text_sigma(sigma["mv"], inputs["mv"].rows)
            text = self._shell("mv").initial_text(inputs["mv"].context, level)
        hidden = Hidden(mv=tokens["mv"], uv=tokens.get("uv"), text=text)
        hidden = self.trunk(self, hidden, inputs, times, cache)
        velocity = self._velocity("mv", hidden.mv, times.mv, latents, sigmas, cache.layout)
        if hidden.uv is not None and times.uv is not None:
            velocity |= self._velocity("uv", hidden.uv, times.uv, latents, sigmas, cache.layout)
            copied = self.copied(hidden, cache) if hidden.copied is None else hidden.copied
            if copied is not None and cache.copies is not None and self.config.copy is not None:
                name = self.config.copy.target  # in place of the velocity out of its own rows
                velocity[name] = copied_velocity(cache.copies, copied, latents[name], sigmas[name])
        return velocity

    def copied(self, hidden: Hidden, cache: StepCache) -> Tensor | None:
        """Clean latents that the copy head finds for its target, ``[B, C, F, H, W]``.

        ``None`` for a model without a head, or without the uv stream.

        Args:
            hidden: the residual streams after the last block.
            cache: of the object and prompt.
        """
        if self.copy_head is None or cache.copies is None or hidden.uv is None:
            return None
        return copied_latents(self.copy_head, cache.copies, hidden.uv)

    def mv_state_dict(self) -> dict[str, Tensor]:
        """The mv branch under the backbone's original key names, adapters merged in."""
        blocks = [merged_state_dict(block.mv) for block in self.muv_blocks()]
        return self.backbone.original_keys(merged_state_dict(self.shells["mv"]), blocks)

    def compile_blocks(self, **options: Any) -> None:
        """Compile every MUV block with ``torch.compile``; opt-in, the first step pays for it.

        Args:
            options: of ``torch.compile``; ``fullgraph=True`` unless it is among them.
        """
        for block in self.muv_blocks():
            block.compile(**{"fullgraph": True, **options})

    def _freeze_and_adapt(self) -> None:
        """Freeze the mv branch, with all that the uv branch shares, and add adapters to it."""
        config = self.config
        generator = torch.Generator().manual_seed(config.lora_seed)
        self.shells["mv"].requires_grad_(False)
        for block in self.muv_blocks():
            block.mv.requires_grad_(False)
            inject_lora(
                block.mv,
                block.mv.own_lora_targets(self.spec),
                rank=config.lora_rank,
                alpha=config.lora_alpha,
                generator=generator,
            )

    def _shell(self, stream: str) -> BackboneShell:
        shell = self.shells[stream]
        assert isinstance(shell, BackboneShell)
        return shell

    def muv_blocks(self) -> Iterator[MUVBlock]:
        """The blocks, in order, or what was put around them, such as ``checkpoint_wrapper``.

        Raises:
            UsageError: what stands there is neither, nor passes on the attributes of one.
        """
        for index, block in enumerate(self.blocks):
            if not isinstance(block, MUVBlock) and not hasattr(block, "build_cache"):
                raise UsageError(
                    f"block {index} of the transformer",
                    expected="a MUVBlock, or a wrapper that passes its attributes on",
                    got=type(block).__name__,
                )
            yield cast(MUVBlock, block)

    def _encoders(self, layout: AnyLayout) -> list[Stream]:
        """Streams whose shells encode time and text with weights of their own."""
        return ["mv"] if self.config.shares_time_text else list(layout.streams)

    def _times(
        self, inputs: Mapping[Stream, BranchInputs], sigma: Mapping[Stream, Tensor]
    ) -> BranchTimes:
        """Embedded noise levels of the streams present, from ``sigma [B, F]`` of each."""

        def encode(stream: Stream, levels: Tensor) -> TimeEmbedding:
            return self._shell(stream).encode_time(levels, inputs[stream].context.pooled)

        def encode_rows(stream: Stream, of: Stream) -> TimeEmbedding:
            return row_times(encode(stream, sigma[of]), inputs[of].rows)

        text = {s: text_sigma(sigma[s], inputs[s].rows) for s in inputs if self.spec.joint_text}
        mv = encode_rows("mv", "mv")
        of_text = encode("mv", text["mv"]) if text else None
        packed = {s: inputs[s].rows.sample_lengths for s in inputs}
        levels = {s: x.flatten()[None] if packed[s] else x for s, x in sigma.items()}
        if "uv" not in inputs:
            return BranchTimes(mv=mv, text=of_text, levels=levels)
        shared = self.config.shares_time_text
        return BranchTimes(
            mv=mv,
            uv=encode_rows("uv", "uv"),
            mv_as_keys=mv if shared else encode_rows("uv", "mv"),
            text=of_text,
            text_as_keys=encode("uv", text["uv"]) if text else None,
            levels=levels,
        )

    def _geometry_tokens(
        self, layout: AnyLayout, geometry: Mapping[str, GeometryLatents], place: Tensor
    ) -> dict[Stream, Tensor]:
        if not geometry:
            return {}
        tokens = {}
        for name, maps in geometry.items():
            moved = GeometryLatents(position=maps.position.to(place), normal=maps.normal.to(place))
            tokens[name] = self.geometry(moved)
        return {stream: layout.pack_stream(stream, tokens) for stream in layout.streams}

    def _embed(
        self,
        cache: StepCache,
        stream: Stream,
        latents: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
    ) -> Tensor:
        layout, position = cache.layout, cache.branches[stream].position
        dtype = next(self.geometry.parameters()).dtype
        shell, names = self._shell(stream), [group.name for group in layout.streams[stream].groups]
        tokens = {name: shell.embed(latents[name].to(dtype), sigmas[name]) for name in names}
        joined = layout.pack_stream(stream, tokens)
        for extra in (position, cache.branches[stream].geometry_input):
            joined = joined if extra is None else joined + extra
        return joined

    def _velocity(
        self,
        stream: Stream,
        hidden_states: Tensor,
        time: TimeEmbedding,
        latents: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        layout: AnyLayout,
    ) -> dict[str, Tensor]:
        shell, rows = self._shell(stream), layout.streams[stream]
        tokens = shell.head(hidden_states, time, rows)
        present = layout.unpack_stream(stream, torch.ones_like(tokens)) if layout.drops else {}
        velocity = {}
        for name, part in layout.unpack_stream(stream, tokens).items():
            grid = layout.group(name).grid
            prediction = shell.unpatchify(part, grid).to(latents[name].dtype)
            velocity[name] = shell.to_velocity(prediction, latents[name], sigmas[name])
            if name in present:
                kept = shell.unpatchify(present[name], grid)
                velocity[name] = velocity[name] * kept.to(velocity[name].dtype)
        return velocity
