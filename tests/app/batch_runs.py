"""Manifests of batches, read as the command reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqtex.cli.batch import _take_request
from seqtex.cli.batch_manifest import ManifestItem, read_manifest_items
from seqtex.cli.batch_requests import ItemParser
from seqtex.cli.batch_work import BatchJob
from seqtex.cli.texture import texture
from seqtex.cli.texture_request import TextureRequest
from seqtex.models.run_sizes import RunSizes

FRONT = "views/0_front.png"
SMALL = ("--method", "project", "--texture-size", "64")


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def requests(manifest: Path, *shared: str) -> list[TextureRequest]:
    out = manifest.parent / "out"
    parser = ItemParser(_take_request, texture, manifest=manifest, out=out, shared=shared)
    return parser.requests(read_manifest_items(manifest))


def job_of(manifest: Path, item: ManifestItem, request: TextureRequest) -> BatchJob:
    return BatchJob(item=item, request=request, folder=manifest.parent / "out", sizes=RunSizes())


def report(work: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((work / "out" / "reports" / f"{name}.json").read_text())
    return record


def summary(work: Path, name: str = "summary.json") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((work / "out" / name).read_text())
    return record
