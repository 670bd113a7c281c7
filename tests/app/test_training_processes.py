"""Runs over several processes, and runs that are killed, equal a run of one process."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import make_run, tiny_config, with_copies

from seqtex.training import trainer
from seqtex.training.build import first_transformer
from seqtex.training.config import TrainingConfig
from seqtex.training.starting_point import starting_point
from seqtex.training.trainable import trained_parameters
from seqtex_core.weight_files import WeightFiles

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = ROOT / "configs" / "smoke.toml"
RUNS = "ddp,fsdp,ddp-copies,fsdp-copies"
CONFIGS = {"plain": tiny_config(8), "copies": with_copies(tiny_config(8))}


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "backbones"), str(ROOT / "geometry")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with WeightFiles([folder / "model" / "model.safetensors"]) as files:
        return {name: files.read(name) for name in files}


def step_losses(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "event" not in record]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DDP, then FSDP2, over two gloo processes; then both with a copy head."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for rank in range(2):
        launched = environment(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        command = [sys.executable, str(HERE / "training_process.py"), RUNS, str(folder)]
        processes.append(subprocess.Popen(command, env=launched, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors[0] + errors[1]
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for name, config in CONFIGS.items():
        trainer.train(make_run(config, folder / name), resume=False, say=lambda text: None)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "resumed", "ddp-copies", "fsdp-copies"])
def test_two_processes_learn_what_one_learns(
    one_process: Path, two_processes: Path, strategy: str
) -> None:
    """Same draws, same global batch: only the order of fp32 sums differs.

    The bound is derived in ``test_training_run.assert_close``: 1.6e-5 after eight steps. Copy heads
    make rows anew in the backward pass of two processes, not in that of one.
    """
    kind = "copies" if strategy.endswith("-copies") else "plain"
    one, two = weights(one_process / kind), weights(two_processes / strategy)
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1.6e-5, rtol=1e-6)
    learned = [n for n in one if n.startswith("copy_head.")] if kind == "copies" else [*one]
    first = first_weights(CONFIGS[kind])
    moved = max(float((one[n] - first[n].detach()).abs().max()) for n in learned if n in first)
    assert moved > 1e-3  # a hundred times the bound: agreement is not for want of learning


def test_losses_of_two_processes_are_those_of_the_whole_batch(
    one_process: Path, two_processes: Path
) -> None:
    one, two = step_losses(one_process / "plain"), step_losses(two_processes / "ddp")
    assert [record["task"] for record in one] == [record["task"] for record in two]
    for mine, theirs in zip(one, two, strict=True):
        # losses near 10, computed from weights that agree to 1.6e-5
        assert mine["total"] == pytest.approx(theirs["total"], rel=1e-4)


def test_fsdp_really_shards(two_processes: Path) -> None:
    facts = json.loads((two_processes / "fsdp.json").read_text())
    assert facts["strategy"] == "fsdp"
    assert facts["sharded"] == facts["parameters"] > 0
    assert facts["all_halved"]
    assert json.loads((two_processes / "ddp.json").read_text())["sharded"] == 0


def first_weights(config: TrainingConfig) -> dict[str, torch.nn.Parameter]:
    return trained_parameters(first_transformer(config, starting_point(config)))


def command(out: Path, *more: str) -> list[str]:
    settings = ["--set", "output.checkpoint_every=2", "--set", "output.preview_count=0"]
    steps = ["--set", "output.storage=fp32", "--device", "cpu"]
    return [
        sys.executable,
        "-m",
        "seqtex",
        "train",
        str(CONFIG),
        "-o",
        str(out),
        *settings,
        *steps,
        *more,
    ]


@pytest.mark.slow
def test_kill_at_any_point_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "whole"), env=environment(), check=True, cwd=tmp_path)
    killed = tmp_path / "killed"
    draw = random.Random(0)
    for _ in range(4):
        metrics = killed / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.is_file() else 0
        process = subprocess.Popen(command(killed, "--resume"), env=environment(), cwd=tmp_path)
        for _ in range(600):  # until it trains, then a moment more
            time.sleep(0.1)
            trains = metrics.is_file() and metrics.stat().st_size != before
            if trains or process.poll() is not None:  # or it had nothing left to do
                break
        time.sleep(draw.uniform(0.0, 1.0))
        process.kill()
        process.wait()
    done = subprocess.run(
        command(killed, "--resume"), env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(killed / "model")
    assert step_losses(killed) == step_losses(tmp_path / "whole")
    one, two = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_smoke_config_trains_and_its_loss_falls(tmp_path: Path, seqtex: Callable[..., Any]) -> None:
    started = time.process_time()
    done = seqtex("train", CONFIG, "-o", tmp_path, "--device", "cpu")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "model")), done.err
    assert time.process_time() - started < 60
    by_task: dict[str, list[float]] = {}
    for record in step_losses(tmp_path):
        by_task.setdefault(str(record["task"]), []).append(record["total"])
    for task, values in by_task.items():
        third = len(values) // 3
        assert sum(values[-third:]) < 0.9 * sum(values[:third]), task
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert list((tmp_path / "previews").glob("*.png"))
    assert "trained" in done.err
