"""A model over several processes gives what it gives in one; refusals of the mesh."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtex_core.errors import UsageError
from seqtex_core.parallel import even_shares, parallel_mesh

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOUND = 1e-13
"""fp64 has 1.1e-16 per rounding; other orders of sums differ by some of them in two blocks of
products over at most 64 terms. A missing exchange differs by 9e-3 at least (the controls)."""


def launch(count: int, meshes: str, folder: Path) -> list[dict[str, dict[str, float]]]:
    """What every process of a run found, by mesh and case."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    paths = [str(ROOT), str(ROOT / "backbones"), str(ROOT / "geometry")]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(HERE / "parallel_process.py"), meshes, str(folder)]
    processes = [
        subprocess.Popen(
            command, env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def check(found: list[dict[str, dict[str, float]]]) -> None:
    for process in found:
        for mesh, cases in process.items():
            controls = {name: value for name, value in cases.items() if "control" in name}
            assert controls
            assert min(controls.values()) > 1e-3, (mesh, controls)
            wrong = {n: v for n, v in cases.items() if n not in controls and not v <= BOUND}
            assert not wrong, (mesh, wrong)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """Branches apart, then rows apart; every model call, and whole runs."""
    found = launch(2, "2,1;1,2", tmp_path)
    check(found)
    assert {name for cases in found[0].values() for name in cases} >= {
        "default, gather",
        "default, ulysses",
        "uneven, ulysses",
        "joint text, ulysses",
        "default, views only",
        "sampling",
        "sampling, reuse",
    }


@pytest.mark.slow
def test_four_processes_give_what_one_gives(tmp_path: Path) -> None:
    check(launch(4, "2,2;1,4", tmp_path))


@given(total=st.integers(0, 5000), count=st.integers(1, 16))
def test_shares_are_even(total: int, count: int) -> None:
    shares = even_shares(total, count)
    assert (len(shares), sum(shares)) == (count, total)
    assert max(shares) - min(shares) <= 1
    assert list(shares) == sorted(shares, reverse=True)


@pytest.mark.parametrize(("branches", "sequence"), [(3, 1), (0, 1), (1, 0), (2, 1), (1, 1)])
def test_meshes_that_do_not_fit_are_refused(branches: int, sequence: int) -> None:
    with pytest.raises(UsageError, match="parallel mesh"):
        parallel_mesh("cpu", branches=branches, sequence=sequence)
