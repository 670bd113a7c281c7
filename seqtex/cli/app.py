"""The command table; each command lives in its own module and imports its work when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from seqtex.launched import launched_processes
from seqtex_core.errors import UsageError

from .batch import PASSED_ON, batch
from .convert import convert
from .data import data_app
from .embed import embed
from .evaluate import evaluate
from .info import info
from .maps import maps
from .reference import reference
from .render import render
from .texture import texture
from .train import train
from .train_fusion import train_fusion

_SHARED = ("texture", "train")

app = typer.Typer(
    name="seqtex",
    help="Texture the mesh that you have: geometry, UVs and everything else in the file stay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 usage, 3 input rejected, 4 environment or weights missing, "
    "5 out of memory, 6 contract broken, 7 items of a batch failed, 130 interrupted. --debug, "
    "anywhere, adds tracebacks.",
)
app.command()(texture)
app.command(context_settings=PASSED_ON)(batch)
app.command()(maps)
app.command()(render)
app.command()(reference)
app.command()(embed)
app.command()(train)
app.command()(train_fusion)
app.command()(evaluate)
app.command()(convert)
app.command()(info)
app.add_typer(data_app)


def _print_version(asked: bool) -> None:
    if asked:
        from seqtex.manifest import installed_versions

        typer.echo(f"seqtex {installed_versions().get('seqtex', 'unknown')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Texture the mesh that you have: geometry, UVs and everything else in the file stay."""
    if launched_processes() > 1 and context.invoked_subcommand not in _SHARED:
        raise UsageError(
            "torchrun",
            expected=" or ".join(f"`seqtex {name}`" for name in _SHARED),
            got=f"`seqtex {context.invoked_subcommand}`, which several processes cannot share",
            remedy="Start it without torchrun.",
        )
