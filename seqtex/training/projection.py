"""The projection frame of a training batch: what the given views show of the true texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

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
    if batch.visible is None:
        raise UsageError(
            "training data",
            expected="the texels that each view sees, for a task with a projection",
            got="none",
            remedy="Use a geometry bank, or a task without a projection.",
        )
    texture = batch.groups[TEXTURE]
    frames, normals, hidden = [], [], []
    for row, plan in enumerate(plans):
        given = list(plan.frames_with(VIEWS, Role.CONDITION))
        mask = texture.mask[row, 0, 0] > 0
        seen = batch.visible[row, given].any(dim=0) & mask
        color, position = texture.images[row, 0], texture.position[row, 0]
        normal = texture.normal[row, 0]
        frames.append(completed_frame(color, seen, position, normal, mask))
        normals.append(marked_normal(normal, seen))
        hidden.append(texture.mask[row] * ~seen)
    group = GroupImages(
        images=torch.stack(frames)[:, None],
        position=texture.position,
        normal=torch.stack(normals)[:, None],
        mask=texture.mask,
    )
    unseen = torch.stack(hidden)
    if base == "projection":
        texture = replace(texture, learned=unseen)
    if copies:
        group = replace(group, present=texture.mask - unseen)
        texture = replace(texture, present=unseen)
    groups = {**batch.groups, PROJECTION: group, TEXTURE: texture}
    return replace(batch, groups=groups, keys=None, geometry_keys=None)
