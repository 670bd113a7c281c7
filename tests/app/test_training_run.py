"""Whole runs: they learn, stop, resume to the bit, and leave a model that loads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import make_run, tiny_config, with_lora

from seqtex.models.load import load_model
from seqtex.training import trainer
from seqtex.training.config import TrainingConfig
from seqtex.training.posthoc import export_average
from seqtex.training.run import Run
from seqtex.training.trainable import count_parts, part_of
from seqtex.training.trainer import TrainingResult
from seqtex_core.errors import ContractError, InputError, UsageError
from seqtex_core.weight_files import WeightFiles

STEPS = 8


def run_it(
    config: TrainingConfig, folder: Path, *, resume: bool = False, stop_at: int | None = None
) -> TrainingResult:
    """Train; with ``stop_at``, SIGTERM arrives while that step is being done."""
    run = make_run(config, folder)
    if stop_at is None:
        return trainer.train(run, resume=resume, say=lambda text: None)
    source = run.source
    original = source.batch

    def batch(indices: list[int], task: str) -> object:
        if indices[0] == 4 * (stop_at - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(indices, task)

    source.batch = batch  # type: ignore[method-assign]
    return trainer.train(run, resume=resume, say=lambda text: None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with WeightFiles([folder / "model" / "model.safetensors"]) as files:
        return {name: files.read(name) for name in files}


def losses(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "event" not in record]


def assert_same(first: Path, second: Path) -> None:
    assert losses(first) == losses(second)
    one, two = weights(first), weights(second)
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    files = [folder / "model" / "model.safetensors" for folder in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()  # headers too: checksums can be compared


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that wait for each other cost more than these tensors take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    result = run_it(tiny_config(STEPS), folder)
    assert result == TrainingResult(step=STEPS, finished=True, model=folder / "model")
    return folder


def test_every_step_is_logged_with_its_task(whole: Path) -> None:
    records = losses(whole)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert {record["task"] for record in records} == {"img2tex", "geo2mv"}
    for record in records:
        assert ("texture" in record) == (record["task"] == "img2tex")
        # the texture counts twice in this config; fp32 sums of two numbers
        whole_loss = record["views"] + 2 * record.get("texture", 0.0)
        assert record["total"] == pytest.approx(whole_loss, rel=1e-6)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_sigterm_saves_and_the_rest_is_the_same_to_the_bit(
    whole: Path, tmp_path: Path, stop_at: int
) -> None:
    stopped = run_it(tiny_config(STEPS), tmp_path, stop_at=stop_at)
    assert stopped == TrainingResult(step=stop_at, finished=False, model=None)
    assert not (tmp_path / "model").exists()
    torch.manual_seed(99)  # the process that resumes is another one
    result = run_it(tiny_config(STEPS), tmp_path, resume=True)
    assert result.finished
    assert_same(whole, tmp_path)


def test_steps_lost_after_the_last_checkpoint_are_done_again(whole: Path, tmp_path: Path) -> None:
    run = make_run(tiny_config(STEPS), tmp_path)
    original = run.source.batch

    def batch(indices: list[int], task: str) -> object:
        if indices[0] == 4 * 4:  # step 5; checkpoints are written every 3
            raise MemoryError
        return original(indices, task)

    run.source.batch = batch  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        trainer.train(run, resume=False, say=lambda text: None)
    assert losses(tmp_path)[-1]["step"] == 4
    assert run_it(tiny_config(STEPS), tmp_path, resume=True).finished
    assert_same(whole, tmp_path)


def test_a_kill_between_the_files_of_a_step_loses_none_of_them(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 6 has a snapshot and a checkpoint; the end comes before the second of them."""
    done: list[str] = []

    def dying(original: Callable[..., None]) -> Callable[..., None]:
        def write(run: Run, step: int) -> None:
            if step == 6 and done:
                raise MemoryError
            original(run, step)
            done.extend([original.__name__] * (step == 6))

        return write

    with monkeypatch.context() as patch:
        for name in ("save_snapshot", "save_checkpoint"):
            patch.setattr(Run, name, dying(getattr(Run, name)))
        with pytest.raises(MemoryError):
            run_it(tiny_config(STEPS), tmp_path)
    assert len(done) == 1
    assert run_it(tiny_config(STEPS), tmp_path, resume=True).finished
    assert_same(whole, tmp_path)
    kept = {path.name: path.read_bytes() for path in (whole / "ema").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "ema").iterdir()} == kept


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    run = make_run(tiny_config(STEPS), tmp_path)
    original = run.source.batch

    def batch(indices: list[int], task: str) -> object:
        if indices[0] == 4:  # the first run is at its second step
            with pytest.raises(UsageError, match=f"no other run.*process {os.getpid()} of "):
                run_it(tiny_config(STEPS), tmp_path, resume=True)
        return original(indices, task)

    run.source.batch = batch  # type: ignore[method-assign]
    assert trainer.train(run, resume=False, say=lambda text: None).finished
    assert run_it(tiny_config(STEPS), tmp_path, resume=True).finished, "it is free again"


def test_prefetched_batches_are_the_same_batches(whole: Path, tmp_path: Path) -> None:
    config = tiny_config(STEPS)
    config = replace(config, data=replace(config.data, prefetch=2))
    run_it(config, tmp_path)
    assert_same(whole, tmp_path)


def test_cached_latents_are_the_same_latents(whole: Path, tmp_path: Path) -> None:
    config = tiny_config(STEPS)
    config = replace(config, data=replace(config.data, cache_latents=str(tmp_path / "cache")))
    run_it(config, tmp_path / "run")
    assert_same(whole, tmp_path / "run")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4  # maps of one sphere


@pytest.mark.parametrize(
    "options", [{"micro_batch": 1}, {"gradient_checkpointing": True}], ids=lambda o: next(iter(o))
)
def test_how_the_work_is_done_hardly_matters(
    whole: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    run_it(tiny_config(STEPS, **options), tmp_path)
    assert_close(whole, tmp_path)


def assert_close(first: Path, second: Path) -> None:
    """Weights equal but for the order of fp32 sums.

    Gradients (norm at most 1 by clipping) then differ by about 1e-6, the sum of some hundred
    roundings of 6e-8; AdamW's update is lr m / (sqrt(v) + eps), whose slope is at most
    (1 / eps) (1 + 1) with eps 1e-3; so one step moves a weight by 1e-3 * 1e-6 * 2e3 = 2e-6 more
    or less, and eight steps by 1.6e-5.
    """
    one, two = weights(first), weights(second)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1.6e-5, rtol=1e-6)


def test_a_run_is_not_overwritten_or_mixed_with_another(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume"):
        run_it(tiny_config(STEPS), whole)
    other = replace(tiny_config(STEPS), seed=6)
    with pytest.raises(UsageError, match="seed"):
        run_it(other, whole, resume=True)
    config = tiny_config(STEPS)
    renamed = replace(config, model=replace(config.model, name="b", summary="Good for hats."))
    copied = Path(shutil.copytree(whole, tmp_path / "run"))
    assert run_it(renamed, copied, resume=True).finished, "words may change"


def test_a_damaged_state_is_an_error_that_names_it(tmp_path: Path) -> None:
    run_it(tiny_config(STEPS), tmp_path, stop_at=3)
    state = next((tmp_path / "checkpoints").rglob("state.safetensors"))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"state\.safetensors"):
        run_it(tiny_config(STEPS), tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = make_run(tiny_config(STEPS), tmp_path)
    original = run.source.batch

    def batch(indices: list[int], task: str) -> object:
        made = original(indices, task)
        if indices[0] == 8:
            made.groups["views"].images[:] = float("nan")
        return made

    run.source.batch = batch  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="step 2"):
        trainer.train(run, resume=False, say=lambda text: None)


def test_a_gradient_that_is_not_finite_spoils_no_weights(tmp_path: Path) -> None:
    """The loss of its step is finite; a checkpoint of the step would be of no use."""
    run = make_run(tiny_config(STEPS), tmp_path)
    weight = next(iter(run.state.parameters.values()))
    calls: list[int] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("inf") if len(calls) == 3 else gradient

    weight.register_hook(spoil)
    with pytest.raises(ContractError, match="gradient at step 2"):
        trainer.train(run, resume=False, say=lambda text: None)
    assert all(torch.isfinite(p).all() for p in run.state.parameters.values())
    assert run.checkpoints.latest() is None


def test_the_model_is_the_average_and_loads(whole: Path) -> None:
    model = load_model(whole / "model")
    assert model.is_trained
    assert model.config.name == "tiny-test"
    record = json.loads((whole / "model" / "training.json").read_text())
    assert (record["step"], record["samples"], record["ema_sigma_rel"]) == (STEPS, 4 * STEPS, 0.05)
    name = "shells.mv.proj_out.weight"
    with WeightFiles([next((whole / "ema").glob("*008.safetensors"))]) as files:
        assert torch.equal(files.read(f"0.05/{name}"), model.transformer.state_dict()[name])
        assert not torch.equal(files.read(f"0.1/{name}"), files.read(f"0.05/{name}"))


def test_another_length_of_the_average_afterwards(whole: Path, tmp_path: Path) -> None:
    mixture = export_average(whole, tmp_path / "same", sigma_rel=0.05, storage="fp32")
    assert mixture.error < 1e-4
    tracked = weights(whole)
    with WeightFiles([tmp_path / "same" / "model.safetensors"]) as files:
        for name in files:
            # weights near 1 and others near 0 whose sum of sizes is below 2: fp32 rounding
            torch.testing.assert_close(files.read(name), tracked[name], atol=2e-6, rtol=1e-5)
    export_average(whole, tmp_path / "longer", sigma_rel=0.15)
    assert load_model(tmp_path / "longer").is_trained
    with pytest.raises(InputError, match="snapshots"):
        export_average(tmp_path, tmp_path / "none", sigma_rel=0.1)


def test_only_what_should_train_trains(tmp_path: Path) -> None:
    said: list[str] = []
    run = make_run(with_lora(tiny_config(4), tmp_path), tmp_path, say=said.append)
    before = {name: p.detach().clone() for name, p in run.transformer.named_parameters()}
    counts = {count.part: count for count in count_parts(run.transformer)}
    assert counts["MV branch and shared"].trained == 0
    assert counts["LoRA"].frozen == counts["UV branch"].frozen == counts["geometry"].frozen == 0
    total = sum(p.numel() for p in run.transformer.parameters() if p.requires_grad)
    assert any(line.startswith(f"all: {total:,} trained") for line in said)
    trainer.train(run, resume=False, say=said.append)
    moved = {part_of(n) for n, p in run.transformer.named_parameters() if p.ne(before[n]).any()}
    assert moved == {"LoRA", "UV branch", "geometry"}
    latest = run.checkpoints.latest()
    assert latest is not None
    with WeightFiles([tmp_path / "model" / "model.safetensors"]) as files:
        assert set(files) >= set(before)  # the model folder is complete, frozen weights included


def test_bf16_trains(tmp_path: Path) -> None:
    run_it(tiny_config(4, precision="bf16"), tmp_path)
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())
    assert losses(tmp_path)[-1]["step"] == 4


def test_the_command_exports_another_length_and_refuses_bad_input(
    whole: Path, tmp_path: Path, seqtex: Callable[..., Any]
) -> None:
    config = Path(__file__).parents[2] / "configs" / "smoke.toml"
    done = seqtex("train", config, "-o", whole, "--ema-length", "0.12")
    assert (done.code, done.out.strip()) == (0, str(whole / "model-ema-0.12"))
    assert load_model(whole / "model-ema-0.12").is_trained
    missing = seqtex("train", tmp_path / "no.toml", "-o", tmp_path / "run")
    assert (missing.code, "no such file" in missing.err) == (3, True)
    unknown = seqtex("train", config, "-o", tmp_path / "run", "--set", "run.batchsize=3")
    assert (unknown.code, "batch_size" in unknown.err) == (2, True)
    uneven = seqtex("train", config, "-o", tmp_path / "run", "--set", "run.micro_batch=3")
    assert (uneven.code, "micro_batch" in uneven.err) == (2, True)
    old = seqtex("train", config, "-o", whole, "--set", "model.overrides.uv_size=16")
    assert (old.code, "--resume" in old.err) == (2, True)
    assert not (tmp_path / "run").exists()
