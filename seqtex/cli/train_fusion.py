"""``seqtex train-fusion``: a model and objects in, the model with a fusion out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from seqtex_core.errors import InputError, UsageError

from .options import OutFolderOption, OverwriteOption
from .progress import StageReporter


def train_fusion(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Objects: a bank or shards, from `seqtex data synth` or `prepare`.",
        ),
    ],
    out: OutFolderOption,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME|DIR", help="The model to weigh.")
    ] = "seqtex-tiny",
    count: Annotated[
        int, typer.Option("--count", help="Objects, each in a texture and from a view.", min=16)
    ] = 1000,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over them.", min=1)] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.", min=0)] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes.", min=1)] = 1,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit how a model's texture is weighed against other ways to continue the references.

    DIR is a copy of the model with the fusion; `seqtex texture --model DIR` uses it.
    """
    from seqtex.fusion import CANDIDATES, FUSION_NAME
    from seqtex.models.folder import model_folder
    from seqtex.outputs import check_folder
    from seqtex.training.fusion_examples import ExampleSettings, fusion_examples
    from seqtex.training.fusion_export import write_with_fusion
    from seqtex.training.fusion_fit import FusionFit, fit_fusion, mean_gain

    if not folder.is_dir():
        raise InputError("FOLDER", expected="a bank or shards", got=f"{folder}: no such folder")
    base = model_folder(model)
    if out.resolve() == base.resolve():
        raise UsageError("--out", expected="another folder than the model's", got=str(out))
    check_folder(out, record=FUSION_NAME, overwrite=overwrite)
    settings = ExampleSettings(
        model=str(base),
        data=folder,
        source="shards" if any(folder.glob("*.tar")) else "bank",
        seed=seed,
    )
    examples = []
    with StageReporter() as reporter:
        for done in fusion_examples(settings, count, workers=workers):
            examples.append(done)
            reporter("Examples", min(len(examples), count - 1), count)
        reporter("Examples", count, count)
    fusion = fit_fusion(examples, FusionFit(epochs=epochs, seed=seed))
    gains = {name: round(mean_gain(fusion, examples, over=name), 3) for name in CANDIDATES}
    facts = {"objects": count, "used": len(examples), "epochs": epochs, "seed": seed}
    write_with_fusion(out, base, fusion, {**facts, "gain_over_in_training_db": gains})
    sys.stderr.write(f"{gains['smooth']:+.2f} dB over the smooth fill on the objects it saw\n")
    typer.echo(out)
