"""What a goal is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .goal_figures import Find


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One thing to reach.

    Args:
        name: what is measured.
        device: where it holds.
        benchmark: whose rows tell.
        find: the figure from these rows, ``None`` where they do not tell.
        at_least: met from here on.
        at_most: met up to here; with neither a figure is only reported.
        form: of the figure, for ``format``.
        unit: behind the figure.
        full: quick runs measure something smaller and do not count.
    """

    name: str
    device: Literal["cpu", "cuda"]
    benchmark: str
    find: Find
    at_least: float | None = None
    at_most: float | None = None
    form: str = ".2f"
    unit: str = "x"
    full: bool = False

    @property
    def wanted(self) -> str:
        """The bound in words; "" for none."""
        if self.at_least is not None:
            return f">= {self.at_least:{self.form}}{self.unit}"
        return "" if self.at_most is None else f"<= {self.at_most:{self.form}}{self.unit}"

    @property
    def command(self) -> str:
        """What measures it."""
        device = " --device cuda" if self.device == "cuda" else ""
        return f"python -m benchmarks {self.benchmark}{device}"

    def judge(self, figure: float) -> Literal["met", "missed", "reported"]:
        """Whether a figure is good enough."""
        if self.at_least is None and self.at_most is None:
            return "reported"
        high = self.at_least is None or figure >= self.at_least
        low = self.at_most is None or figure <= self.at_most
        return "met" if high and low else "missed"
