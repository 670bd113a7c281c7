"""The suite: everything that the library relies on in a backbone."""

from __future__ import annotations

import contextlib
import unittest

from .branches import BranchChecks
from .contract import ContractChecks
from .layouts import LayoutChecks
from .parity import ParityChecks
from .training import TrainingChecks


class BackboneConformance(TrainingChecks, LayoutChecks, BranchChecks, ParityChecks, ContractChecks):
    """Subclass, override ``make_backbone``, and let pytest collect it (or call ``run``).

    The backbone should be tiny: two blocks, two heads, a few dozen channels, every part that the
    real one has. See ``Harness`` for what can be adjusted. Checks against the original are skipped,
    with a reason, where ``reference_velocity`` is left out.
    """

    @classmethod
    def checks(cls) -> list[str]:
        """Names of all checks, those first that the others need; pytest has the same order."""
        names = (name for kind in reversed(cls.__mro__) for name in vars(kind))
        return list(dict.fromkeys(name for name in names if name.startswith("test_")))

    def run(self) -> list[str]:
        """Run all checks without pytest; returns the names of those that were not skipped.

        Raises:
            AssertionError: of the first check that fails.
        """
        done = []
        for name in self.checks():
            with contextlib.suppress(unittest.SkipTest):
                getattr(self, name)()
                done.append(name)
        return done
