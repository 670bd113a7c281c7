"""The built-in tasks are the table of the paper (Tab. 1) and the two that the release adds."""

from __future__ import annotations

import pytest

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.tasks import TASKS, geo2mv, img2tex, mv2tex, tex2mv


def letters(plan: FramePlan) -> str:
    """Roles as ``views|texture``, one letter per frame: D, C or N."""
    return "|".join(
        "".join(state.role.name[0] for state in states) for states in plan.groups.values()
    )


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (img2tex(), "CDDD|D"),
        (img2tex(condition_views=(2,)), "DDCD|D"),
        (img2tex(num_views=6, condition_views=(5, 0)), "CDDDDC|D"),
        (geo2mv(), "DDDD|N"),
        (mv2tex(num_views=3), "CCC|D"),
        (tex2mv(), "DDDD|C"),
    ],
)
def test_roles(plan: FramePlan, expected: str) -> None:
    assert letters(plan) == expected


def test_all_views_given_is_mv2tex() -> None:
    assert img2tex(condition_views=range(4)).groups == mv2tex().groups


@pytest.mark.parametrize("views", [(), (4,), (-1,), (1, 1)])
def test_views_that_are_not_there_are_refused(views: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="0 to 3"):
        img2tex(condition_views=views)


def test_tasks_by_name_need_no_code_of_their_own() -> None:
    names = ["geo2mv", "img2tex", "img2tex_projected", "img2uv", "mv2tex", "tex2mv"]
    assert TASKS.names() == names
    for name in TASKS:
        plan = TASKS.get(name)(num_views=2)
        assert plan.name == name
        groups = ["views", "projection", "texture"] if "projected" in name else ["views", "texture"]
        assert list(plan.groups) == groups
        assert type(plan) is FramePlan


def test_only_geo2mv_skips_the_texture() -> None:
    skipped = [name for name in TASKS if len(TASKS.get(name)().required_groups()) == 1]
    assert skipped == ["geo2mv"]
