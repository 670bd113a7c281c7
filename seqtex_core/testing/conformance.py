"""The suite: everything that the library relies on in a backbone."""

from __future__ import annotations

from .branches import BranchChecks
from .layouts import LayoutChecks
from .parity import ParityChecks
from .training import TrainingChecks


class BackboneConformance(ParityChecks, BranchChecks, LayoutChecks, TrainingChecks):
    """Subclass, override ``make_backbone``, and let pytest collect it (or call ``run``).

    The backbone should be tiny: two blocks, two heads, a few dozen channels, every part that the
    real one has. See ``Harness`` for what can be adjusted.
    """

    @classmethod
    def checks(cls) -> list[str]:
        """Names of all checks."""
        return sorted(name for name in dir(cls) if name.startswith("test_"))

    def run(self) -> list[str]:
        """Run all checks without pytest; returns their names.

        Raises:
            AssertionError: of the first check that fails.
        """
        for name in self.checks():
            getattr(self, name)()
        return self.checks()
