"""The smoke config with a CogVideoX backbone: the loss falls here too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtex.models.load import load_model

ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, Any]] = {
    "2b": {"snr_shift": 3.0},
    "5b": {"use_rotary_positional_embeddings": True, "sample_height": 8, "sample_width": 8},
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2},
}


@pytest.mark.parametrize(
    "version", ["5b", *(pytest.param(name, marks=pytest.mark.slow) for name in ("2b", "1.5"))]
)
def test_smoke_config_with_cogvideox(
    version: str, tmp_path: Path, seqtex: Callable[..., Any]
) -> None:
    base = json.loads((ROOT / "seqtex" / "models" / "seqtex-tiny" / "seqtex.json").read_text())
    base["backbone"] = {
        "name": "smoke-cogvideox",
        "architecture": "cogvideox",
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "in_channels": 12,
            "out_channels": 12,
            "time_embed_dim": 32,
            "text_embed_dim": 16,
            "max_text_seq_length": 1,
            **SIZES[version],
        },
    }
    base |= {"view_size": 16, "uv_size": 32, "task": "img2tex", "texture_base": "none"}
    base["codec"]["patch_size"] = 2
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "seqtex.json").write_text(json.dumps(base))
    smoke = (ROOT / "configs" / "smoke.toml").read_text()
    start, end = smoke.index("[model]"), smoke.index("[data]")
    config = tmp_path / "smoke.toml"
    config.write_text(f'{smoke[:start]}[model]\nbase = "base"\nname = "smoke"\n\n{smoke[end:]}')

    done = seqtex("train", config, "-o", tmp_path / "run", "--device", "cpu")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run" / "model")), done.err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    by_task: dict[str, list[float]] = {}
    for record in records:
        if "total" in record and "task" in record:
            by_task.setdefault(str(record["task"]), []).append(record["total"])
    assert set(by_task) == {"img2tex", "geo2mv"}
    for task, values in by_task.items():
        third = len(values) // 3
        assert sum(values[-third:]) < 0.9 * sum(values[:third]), task
    assert load_model(tmp_path / "run" / "model").is_trained
