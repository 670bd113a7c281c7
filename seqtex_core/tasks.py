"""The built-in tasks as frame plans, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .errors import UsageError
from .frame_plan import FramePlan
from .registry import Registry
from .roles import CONDITION, DENOISE, NONSENSE, Role

VIEWS = "views"
TEXTURE = "texture"
PROJECTION = "projection"

TaskFactory = Callable[..., FramePlan]
TASKS: Registry[TaskFactory] = Registry(
    "task",
    {
        "img2tex": "seqtex_core.tasks:img2tex",
        "img2tex_projected": "seqtex_core.tasks:img2tex_projected",
        "img2uv": "seqtex_core.tasks:img2uv",
        "geo2mv": "seqtex_core.tasks:geo2mv",
        "mv2tex": "seqtex_core.tasks:mv2tex",
        "tex2mv": "seqtex_core.tasks:tex2mv",
    },
    entry_point_group="seqtex.tasks",
)
"""Factories of plans; each takes ``num_views`` and its own options by keyword."""


REFERENCE_TASKS = ("img2tex", "img2tex_projected", "img2uv")
"""Tasks in which some views are given: their factories take ``condition_views``."""


def img2tex(*, num_views: int = 4, condition_views: Sequence[int] = (0,)) -> FramePlan:
    """Reference image(s) to texture: the given views condition, all else is made.

    Args:
        num_views: frames of the ``views`` group.
        condition_views: which of them are given; one or several.

    Raises:
        UsageError: no view given, one named twice, or one that is not there.
    """
    if isinstance(condition_views, int):
        raise UsageError(
            "condition_views",
            expected=f"a sequence: ({condition_views},)",
            got=str(condition_views),
        )
    given = set(condition_views)
    valid = given and len(given) == len(condition_views) and given <= set(range(num_views))
    if not valid:
        raise UsageError(
            "condition_views",
            expected=f"different views among 0 to {num_views - 1}, at least one",
            got=str(tuple(condition_views)),
        )
    views = tuple(CONDITION if view in given else DENOISE for view in range(num_views))
    return FramePlan(name="img2tex", groups={VIEWS: views, TEXTURE: (DENOISE,)})


def img2tex_projected(*, num_views: int = 4, condition_views: Sequence[int] = (0,)) -> FramePlan:
    """Like :func:`img2tex`, with the references laid out in UV space as one more condition.

    Args:
        num_views: see :func:`img2tex`.
        condition_views: see :func:`img2tex`.

    Raises:
        UsageError: see :func:`img2tex`.
    """
    plan = img2tex(num_views=num_views, condition_views=condition_views)
    groups = {
        VIEWS: plan.groups[VIEWS],
        PROJECTION: (CONDITION,),
        TEXTURE: plan.groups[TEXTURE],
    }
    return FramePlan(name="img2tex_projected", groups=groups)


def img2uv(*, num_views: int = 4, condition_views: Sequence[int] = (0,)) -> FramePlan:
    """Reference image(s) to texture without making views: the others are nonsense.

    For comparison with :func:`img2tex`: what the making of views is worth.

    Args:
        num_views: see :func:`img2tex`.
        condition_views: see :func:`img2tex`.

    Raises:
        UsageError: see :func:`img2tex`.
    """
    plan = img2tex(num_views=num_views, condition_views=condition_views)
    views = tuple(NONSENSE if v.role is Role.DENOISE else v for v in plan.groups[VIEWS])
    return FramePlan(name="img2uv", groups={VIEWS: views, TEXTURE: (DENOISE,)})


def geo2mv(*, num_views: int = 4) -> FramePlan:
    """Geometry (and text) to views; the texture is nonsense and costs nothing."""
    return FramePlan(name="geo2mv", groups={VIEWS: (DENOISE,) * num_views, TEXTURE: (NONSENSE,)})


def mv2tex(*, num_views: int = 4) -> FramePlan:
    """All views to texture."""
    return FramePlan(name="mv2tex", groups={VIEWS: (CONDITION,) * num_views, TEXTURE: (DENOISE,)})


def tex2mv(*, num_views: int = 4) -> FramePlan:
    """Texture to views.

    Needs a model whose views read the texture; with decoupled branches they never do
    (:meth:`FramePlan.unread_conditions` says so).
    """
    return FramePlan(name="tex2mv", groups={VIEWS: (DENOISE,) * num_views, TEXTURE: (CONDITION,)})
