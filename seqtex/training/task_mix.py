"""Which task a step trains, and which views each of its samples is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.tasks import REFERENCE_TASKS, TASKS, TEXTURE

from .randomness import draw_weighted, generator_for


@dataclass(frozen=True, kw_only=True)
class TaskMix:
    """Tasks by weight.

    All samples of one optimizer step train the same task, whatever the number of processes: so the
    UV branch runs everywhere or nowhere.

    Args:
        weights: by task name; not normalised.
        num_views: frames of the views group.
        views_given: weights of being given 1, 2, ... views, for tasks with a reference.

    Raises:
        UsageError: unknown tasks, or weights that no choice can be made from.
    """

    weights: Mapping[str, float]
    num_views: int
    views_given: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        for name in self.weights:
            TASKS.get(name)
        counts = len(self.views_given)
        for what, values in (
            ("tasks", list(self.weights.values())),
            ("views_given", list(self.views_given)),
        ):
            if not values or min(values) < 0 or sum(values) <= 0:
                raise UsageError(what, expected="weights of 0 or more, not all 0", got=str(values))
        if counts > self.num_views:
            raise UsageError(
                "views_given", expected=f"at most {self.num_views} weights", got=str(counts)
            )

    def task_of(self, step: int, *, seed: int) -> str:
        """The task of an optimizer step."""
        names = list(self.weights)
        weights = [self.weights[name] for name in names]
        return names[draw_weighted(weights, generator_for(seed, "task", step))]

    def plan(self, task: str, index: int, *, seed: int) -> FramePlan:
        """The frame plan of a sample; given views, where a task has some, are drawn uniformly.

        Args:
            task: of the step.
            index: global sample number.
            seed: of the run.
        """
        if task not in REFERENCE_TASKS:
            return TASKS.get(task)(num_views=self.num_views)
        draw = generator_for(seed, "views", index)
        count = 1 + draw_weighted(self.views_given, draw)
        views = torch.randperm(self.num_views, generator=draw)[:count].tolist()
        return TASKS.get(task)(num_views=self.num_views, condition_views=tuple(sorted(views)))

    def always_trains_uv(self) -> bool:
        """Whether every task computes the UV branch."""
        return all(
            TEXTURE in TASKS.get(name)(num_views=self.num_views).required_groups()
            for name, weight in self.weights.items()
            if weight > 0
        )
