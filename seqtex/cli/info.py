"""``seqtex info``: what is installed, what can run here, and why the rest cannot."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from seqtex_core.registry import Registry


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List versions, devices and every registered part, each with its reason if it cannot run."""
    report = environment()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    for section, rows in report.items():
        table = Table(title=section, title_justify="left", show_header=False, box=None)
        for name, value in rows.items():
            table.add_row(f"  {name}", escape(_sentence(value)))
        console.print(table)


def environment() -> dict[str, dict[str, Any]]:
    """Sections of names with their state: a text, or ``None`` for "available"."""
    import torch

    from seqtex.manifest import installed_versions

    return {
        "versions": {**installed_versions(), "platform": platform.platform()},
        "devices": _devices(torch),
        "rasterizers": _rasterizers(torch),
        "attention": _attention(),
        "kernels": _kernels(),
        **_registries(),
    }


def _sentence(value: object) -> str:
    if value is None:
        return "available"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_sentence(inner)}" for key, inner in value.items())
    return str(value)


def _devices(torch: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"cpu": f"{torch.get_num_threads()} threads"}
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        found["cuda"] = "no device is visible" if built else "this torch is built without CUDA"
        return found
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    return found


def _rasterizers(torch: Any) -> dict[str, Any]:
    from seqtex_geometry.rasterize import available_rasterizers

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    states = {device: dict(available_rasterizers(device)) for device in devices}
    names = states["cpu"]
    if len(devices) == 1:
        return names
    return {name: {device: states[device][name] for device in devices} for name in names}


def _attention() -> dict[str, Any]:
    from seqtex_core.attention import list_attention

    return dict(list_attention())


def _kernels() -> dict[str, Any]:
    from seqtex_core.kernels import list_kernels

    return dict(list_kernels())


def _registries() -> dict[str, dict[str, Any]]:
    from seqtex_backbones.codecs.protocol import CODECS
    from seqtex_backbones.registry import BACKBONES, entry_of
    from seqtex_backbones.unipc import SAMPLERS
    from seqtex_core.tasks import TASKS

    return {
        "backbones": dict(BACKBONES.states(lambda entry: entry_of(entry).summary)),
        "codecs": _loading(CODECS),
        "samplers": _loading(SAMPLERS),
        "tasks": _loading(TASKS),
        "models": _models(),
    }


def _loading(table: Registry[Any]) -> dict[str, str | None]:
    """Each entry with what kept it from loading, or ``None``: one that loads can be used."""
    return dict(table.states(lambda entry: None))


def _models() -> dict[str, str]:
    from seqtex.models.catalog import CATALOG
    from seqtex.models.config import WEIGHTS_NAME
    from seqtex.models.folder import BUILT_IN, model_folder

    trained = {True: "trained", False: "untrained: seeded random weights, for trying things out"}
    ours = {name: trained[(model_folder(name) / WEIGHTS_NAME).is_file()] for name in BUILT_IN}
    full_size = {
        name: f"{CATALOG.get(name).summary}; needs --weights, such as {CATALOG.get(name).hub_id}"
        for name in CATALOG
    }
    return {**ours, **full_size}
