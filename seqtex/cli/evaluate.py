"""``seqtex evaluate``: texturing methods measured on objects whose true texture is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqtex_core.errors import UsageError
from seqtex_geometry.mesh import VIEW_NAMES

from .exits import naming_smaller_setting
from .options import DeviceOption, OverwriteOption, check_choice
from .progress import StageReporter

if TYPE_CHECKING:
    import torch

    from seqtex.evaluation.cases import CaseSource
    from seqtex.evaluation.methods import TexturingMethod


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="SET",
            help="Objects: a bank from `seqtex data synth`, or shards from `seqtex data prepare`.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]DIR",
            help="Model to measure beside the baselines: a folder or a built-in name. Repeatable.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="N[,N...]",
            help="Sampling steps; several measure each model several times.",
            show_default="the model's own",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", help="Number of objects.", min=1, show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of textures and noise.", min=0)] = 0,
    textures: Annotated[
        Literal["own", "held-out", "train", "all"] | None,
        typer.Option(
            "--textures",
            help="own: the textures of the meshes; else the texture kinds to paint them in.",
            show_default="own for shards, held-out for a bank",
        ),
    ] = None,
    view: Annotated[
        str, typer.Option("--view", metavar="NAME", help="The view that is given.")
    ] = "front",
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Objects that a model makes at once.", min=1)
    ] = 10,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Measure models and the methods that need none: DIR/results.json, results.md, pictures.png."""
    from seqtex.data.splits import split_kinds
    from seqtex.evaluation.report import RESULTS, TABLE, summary_tables, write_report
    from seqtex.evaluation.run import EvaluationSettings, run_evaluation
    from seqtex.outputs import check_folder
    from seqtex.prepare import choose_device

    check_choice("--view", view, VIEW_NAMES)
    numbers, place = parsed_steps(steps), choose_device(device)
    check_folder(out, record=RESULTS, overwrite=overwrite)
    shards = any(folder.glob("*.tar"))
    chosen = textures or ("own" if shards else "held-out")
    objects = _objects(folder, shards=shards, own=chosen == "own")
    settings = EvaluationSettings(
        count=len(objects) if count is None else count,
        seed=seed,
        kinds=() if chosen == "own" else tuple(split_kinds(chosen)),
        given_view=VIEW_NAMES.index(view),
        batch_size=batch_size,
    )
    methods = _methods(models or [], numbers, device=place, seed=seed)
    with StageReporter() as reporter, naming_smaller_setting("Lower --batch-size."):
        found = run_evaluation(objects, methods, settings, on_progress=reporter)
    record = write_report(out, found, objects, settings)
    typer.echo("\n".join(summary_tables(record)), err=True)
    typer.echo(f"All tables, and what is measured: {out / TABLE}", err=True)
    typer.echo(out)


def _objects(folder: Path, *, shards: bool, own: bool) -> CaseSource:
    from seqtex.data.bank import GeometryBank
    from seqtex.evaluation.cases import BankObjects
    from seqtex.evaluation.prepared import PreparedObjects

    if shards:
        return PreparedObjects(folder, painted=not own)
    bank = GeometryBank(folder)
    if own:
        raise UsageError(
            "--textures", expected="held-out, train or all, for a bank", got="own: it has none"
        )
    return BankObjects(bank=bank)


def _methods(
    models: list[str], steps: tuple[int, ...], *, device: torch.device, seed: int
) -> list[TexturingMethod]:
    from seqtex.evaluation.methods import baselines
    from seqtex.evaluation.model_method import ModelMethod

    methods = baselines()
    for text in models:
        name, folder = named_model(text)
        methods += ModelMethod.load(folder, name=name, device=device, steps=steps, seed=seed)
    return methods


def named_model(text: str) -> tuple[str, str]:
    """Name and folder of ``NAME=DIR`` or ``DIR``; a folder ``model`` is named by its parent.

    Raises:
        UsageError: an empty name or folder.
    """
    name, mark, folder = text.partition("=")
    if not mark or Path(text).exists():
        path = Path(text)
        own = path.resolve().parent.name if path.name == "model" else path.name
        return own, text
    if not name or not folder:
        raise UsageError("--model", expected="DIR or NAME=DIR", got=repr(text))
    return name, folder


def parsed_steps(text: str | None) -> tuple[int, ...]:
    """Numbers of steps, with commas between; none at all for ``None``.

    Raises:
        UsageError: something else than whole numbers above 0.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            "--steps", expected="whole numbers of 1 or more, commas between", got=repr(text)
        )
    return tuple(dict.fromkeys(int(part) for part in parts))
