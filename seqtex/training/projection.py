"""The projection frame of a training batch: what the given views show of the true texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.roles import Role
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS

from ..models.config import TextureBase
from ..projection_frame import completed_frame, marked_normal
from .batch import GroupImages, TrainingBatch


def with_projection(
    batch: TrainingBatch, plans: Sequence[FramePlan], base: TextureBase, *, copies: bool = False
) -> TrainingBatch:
    """The batch with the group that the given views of every sample's plan make.

    Args:
        batch: with a texture and the texels that each view sees.
        plans: one per sample.
        base: what the texture is measured from. With ``"projection"`` the loss counts only texels
            that no given view sees: the others are not the model's to change.
        copies: the model copies from the frame to the texture: of the frame only what is seen is
            there for it, of the texture only what is not.

    Raises:
        UsageError: the source does not say what the views see.
    """
    texture = batch.groups[TEXTURE]
    shown = _shown(batch, plans)
    unseen = texture.mask * ~shown
    group = _frame(texture, shown)
    if base == "projection":
        texture = replace(texture, learned=unseen)
    if copies:
        group = replace(group, present=texture.mask - unseen)
        texture = replace(texture, present=unseen)
    groups = {**batch.groups, PROJECTION: group, TEXTURE: texture}
    return replace(batch, groups=groups, keys=None, geometry_keys=None)


def _shown(batch: TrainingBatch, plans: Sequence[FramePlan]) -> Tensor:
    """Where given views see the texture, boolean ``[B, 1, 1, H, W]``."""
    if batch.visible is None:
        raise UsageError(
            "training data",
            expected="the texels that each view sees, for a task with a projection",
            got="none",
            remedy="Use a geometry bank, or a task without a projection.",
        )
    given = [list(plan.frames_with(VIEWS, Role.CONDITION)) for plan in plans]
    rows = zip(batch.visible, given, strict=True)
    seen = torch.stack([visible[views].any(dim=0) for visible, views in rows])
    return seen[:, None, None] & (batch.groups[TEXTURE].mask > 0)


def _frame(texture: GroupImages, shown: Tensor) -> GroupImages:
    """The texture where it is shown, continued smoothly; normals say where that is."""
    frames, normals = [], []
    for row, seen in enumerate(shown[:, 0, 0]):
        color, mask = texture.images[row, 0], texture.mask[row, 0, 0] > 0
        position, normal = texture.position[row, 0], texture.normal[row, 0]
        frames.append(completed_frame(color, seen, position, normal, mask))
        normals.append(marked_normal(normal, seen))
    return GroupImages(
        images=torch.stack(frames)[:, None],
        position=texture.position,
        normal=torch.stack(normals)[:, None],
        mask=texture.mask,
    )
