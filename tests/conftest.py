"""Shared by all tests: fixed seeds, few threads, and the ``gpu`` marker."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # read by Triton when it is imported; it changes nothing else
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A shell's background jobs ignore SIGINT, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(min(int(os.environ["OMP_NUM_THREADS"]), os.cpu_count() or 1))

# What test files share lies beside them, under names that are unique in the whole tree.
sys.path += [str(folder) for folder in Path(__file__).parent.iterdir() if folder.is_dir()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; none is visible")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  third-party code may still draw from the global state
    torch.manual_seed(0)
