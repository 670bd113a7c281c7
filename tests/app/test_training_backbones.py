"""The smoke config with backbones of other architectures: the loss falls here too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtex.models.load import load_model

ROOT = Path(__file__).parents[2]
COGVIDEOX: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "in_channels": 12,
    "out_channels": 12,
    "time_embed_dim": 32,
    "text_embed_dim": 16,
    "max_text_seq_length": 1,
}
HUNYUAN_VIDEO: dict[str, Any] = {
    "in_channels": 12,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": [4, 6, 6],
    "text_length": 1,
}
MOCHI: dict[str, Any] = {
    "in_channels": 12,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "pooled_projection_dim": 24,
    "text_embed_dim": 16,
    "time_embed_dim": 32,
    "max_sequence_length": 1,
}
LTX_VIDEO: dict[str, Any] = {
    "in_channels": 12,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "caption_channels": 16,
    "text_length": 1,
}
COSMOS: dict[str, Any] = {
    "in_channels": 12,
    "out_channels": 12,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "text_embed_dim": 16,
    "adaln_lora_dim": 8,
    "extra_pos_embed_type": None,
    "text_length": 1,
}
LEARNED = {"extra_pos_embed_type": "learnable", "objective": "edm", "max_size": [8, 16, 16]}
ROTATES = {"use_rotary_positional_embeddings": True}
QUICK = {
    "cogvideox-5b": ("cogvideox", COGVIDEOX | ROTATES | {"sample_height": 8, "sample_width": 8})
}
SLOW = {
    "cogvideox-2b": ("cogvideox", COGVIDEOX | {"snr_shift": 3.0}),
    "cogvideox-1.5": ("cogvideox", COGVIDEOX | ROTATES | {"patch_size_t": 2}),
    "hunyuan-video": ("hunyuan-video", HUNYUAN_VIDEO),
    "mochi": ("mochi", MOCHI),
    "ltx-video": ("ltx-video", LTX_VIDEO),
    "cosmos": ("cosmos", COSMOS),
    "cosmos-edm": ("cosmos", COSMOS | LEARNED),
}


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        *(pytest.param(*given, id=name) for name, given in QUICK.items()),
        *(pytest.param(*given, id=name, marks=pytest.mark.slow) for name, given in SLOW.items()),
    ],
)
def test_smoke_config_with_another_backbone(
    architecture: str, sizes: dict[str, Any], tmp_path: Path, seqtex: Callable[..., Any]
) -> None:
    base = json.loads((ROOT / "seqtex" / "models" / "seqtex-tiny" / "seqtex.json").read_text())
    base["backbone"] = {"name": "smoke", "architecture": architecture, "config": sizes}
    base |= {"view_size": 16, "uv_size": 32, "task": "img2tex", "texture_base": "none"}
    base["codec"]["patch_size"] = 2
    base["decoupled"]["copy"] = None
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
