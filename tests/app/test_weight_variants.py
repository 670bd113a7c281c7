"""A pipeline's folder that holds its weights twice, as the hub has some: plain and ``.fp16``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqtex.models.catalog import CATALOG
from seqtex.models.load import load_model
from seqtex.models.memory_use import _file_bytes
from seqtex.models.sources import ModelSources

sys.path.insert(0, str(Path(__file__).parent))
import full_size_models as tiny

pytest.importorskip("transformers", reason="text prompts need transformers")


@pytest.fixture(autouse=True)
def _in_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tests_only", tiny)
    CATALOG.register(tiny.NAME, tiny.ENTRY)
    yield
    del CATALOG._entries[tiny.NAME]


def test_variants_beside_the_weights_change_nothing(tmp_path: Path) -> None:
    plain = tiny.write_text_encoder(tiny.write_pipeline(tmp_path / "plain"))
    twice = shutil.copytree(plain, tmp_path / "twice")
    for file in sorted(twice.rglob("*.safetensors")):
        zeros = {name: torch.zeros_like(t).half() for name, t in load_file(file).items()}
        save_file(zeros, file.with_suffix(".fp16.safetensors"))
    assert len(list(twice.rglob("*.fp16.safetensors"))) == 3
    assert _file_bytes(twice / "text_encoder") == _file_bytes(plain / "text_encoder") > 0
    models = [
        load_model(tiny.NAME, sources=ModelSources(weights=str(folder), text=str(folder)))
        for folder in (plain, twice)
    ]
    first, second = (model.transformer.state_dict() for model in models)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert models[0].record.sha256 == models[1].record.sha256
