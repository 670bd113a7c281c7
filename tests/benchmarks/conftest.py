"""One real run of two small benchmarks, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import ceilings, suite

LIGHT_GEMM = {"cpu": ((64, 64, 64),)}


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the result file; its limits are those of tiny operands."""
    folder = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "GEMM_SHAPES", LIGHT_GEMM)
        patch.setattr(ceilings, "COPY_BYTES", {"cpu": 1 << 20})
        try:
            return suite.run_suite(["limits", "rope"], device="cpu", quick=True, out=folder)
        finally:
            torch.set_num_threads(threads)
