"""``seqtex train``: a config in, a model folder out."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from seqtex_core.errors import InputError, UsageError

from .exits import TERMINATED, naming_smaller_setting
from .options import DeviceOption


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of the run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint in the folder.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace an entry, e.g. --set run.batch_size=16."
        ),
    ] = None,
    ema_length: Annotated[
        float | None,
        typer.Option(
            "--ema-length",
            metavar="SIGMA_REL",
            help="Train nothing: write DIR/model-ema-SIGMA_REL from the snapshots of the run.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a model on CONFIG; DIR/model is what `seqtex texture --model` takes.

    Several processes: torchrun --nproc-per-node N -m seqtex train CONFIG -o DIR. SIGTERM saves and
    ends; --resume goes on as if nothing had happened.
    """
    if not config.is_file():
        raise InputError("CONFIG", expected="a TOML file", got=f"{config}: no such file")
    changes = parse_settings(settings or [])
    if ema_length is not None:
        print(_export_average(out, ema_length))
        return
    with naming_smaller_setting("Lower micro_batch, or set gradient_checkpointing, in [run]."):
        finished = _train(config, out, changes, resume=resume, device=device)
    if not finished:
        raise SystemExit(TERMINATED)
    if int(os.environ.get("RANK", "0")) == 0:
        print(out / "model")


def _export_average(out: Path, sigma_rel: float) -> Path:
    from seqtex.training.posthoc import export_average

    folder = out / f"model-ema-{sigma_rel:g}"
    mixture = export_average(out, folder, sigma_rel=sigma_rel)
    sys.stderr.write(f"averaging profile met to {100 * mixture.error:.2f}%\n")
    return folder


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Nested tables of ``a.b=value`` assignments; values are TOML, or else plain text.

    Raises:
        UsageError: no key, or no value.
    """
    from seqtex.training.config import merge_tables

    merged: dict[str, Any] = {}
    for setting in settings:
        key, mark, value = setting.partition("=")
        if not mark or not key.strip():
            raise UsageError("--set", expected="KEY=VALUE", got=repr(setting))
        try:
            table = tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            table = _nested(key.strip().split("."), value.strip())
        merged = merge_tables(merged, table)
    return merged


def _nested(keys: list[str], value: str) -> dict[str, Any]:
    below: Any = value
    for key in reversed(keys):
        below = {key: below}
    table: dict[str, Any] = below
    return table


def _train(path: Path, out: Path, changes: dict[str, Any], *, resume: bool, device: str) -> bool:
    import torch

    from seqtex.prepare import choose_device
    from seqtex.training.config import read_config
    from seqtex.training.parallel import make_parallel
    from seqtex.training.run_setup import set_up_run
    from seqtex.training.trainer import train as run_training

    chosen = choose_device(device)
    config = read_config(path, changes)
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)
    parallel = make_parallel(config.run.strategy, chosen)

    def say(text: str) -> None:
        if parallel.rank == 0:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    try:
        say(f"device: {parallel.device}, {parallel.world_size} process(es), {parallel.name}")
        run = set_up_run(config, out, parallel, say=say)
        result = run_training(run, resume=resume, say=say)
    finally:
        parallel.close()
    return result.finished
