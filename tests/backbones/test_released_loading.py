"""Checkpoints in the released layout: every key in and out, refusals, precision, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from released_peer import PeerSizes, State, released_shapes, released_state
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.seqtex_release import (
    RELEASED_BACKBONE,
    RELEASED_CLASS,
    RELEASED_DECOUPLED,
    Component,
    WeightPlacement,
    component_of,
    empty_released,
    load_released,
    save_released,
)
from seqtex_backbones.seqtex_release_keys import released_names
from seqtex_backbones.wan.configs import WAN_2_1_T2V_1_3B, WAN_TINY, WanConfig
from seqtex_core.checkpoint import unique_tensors
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.lora import merge_lora
from seqtex_core.weight_files import WeightFiles

SIZES = PeerSizes()
CONFIG = replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha)


def write_folder(folder: Path, state: State, *, shards: int = 1) -> Path:
    """As diffusers writes the released model: config, weights or shards with an index."""
    folder.mkdir(parents=True)
    told = {"_class_name": RELEASED_CLASS, **WAN_TINY.config.to_diffusers()}
    told |= {"rope_max_seq_len": 2048}
    (folder / "config.json").write_text(json.dumps(told))
    if shards == 1:
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
        return folder
    index: dict[str, str] = {}
    for shard in range(shards):
        name = f"diffusion_pytorch_model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: state[key] for key in list(state)[shard::shards]}
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def test_all_keys_and_parameters_of_the_full_size_model() -> None:
    """1760 keys; 2727.6 M parameters in all, counted by component."""
    named = unique_tensors(empty_released(WAN_2_1_T2V_1_3B))
    sizes = PeerSizes(
        heads=12, head_dim=128, layers=30, ffn=8960, text=4096, freq=256, rank=128, alpha=64.0
    )
    names = released_names(named)
    assert {names[name]: tuple(t.shape) for name, t in named.items()} == released_shapes(sizes)
    assert len(named) == 1760
    counts: Counter[str] = Counter()
    for name, tensor in named.items():
        counts[component_of(name)] += tensor.numel()
    assert {name: round(n / 1e6, 1) for name, n in counts.items()} == {
        "base": 1419.0,
        "lora": 127.8,
        "uv": 1109.8,
        "geometry": 71.0,
    }
    assert counts.total() == 2_727_648_832
    assert WAN_2_1_T2V_1_3B.name == RELEASED_BACKBONE


@pytest.mark.parametrize("given", ["file", "folder", "shards", "pipeline"])
def test_every_way_to_name_the_weights_gives_all_tensors(tmp_path: Path, given: str) -> None:
    state = released_state(SIZES)
    options: dict[str, Any] = {}
    path = tmp_path / "model"
    if given == "file":
        path = tmp_path / "released.safetensors"
        save_file(state, path)
        options = {"model": WAN_TINY}
    elif given == "pipeline":
        write_folder(path / "transformer", state)
    else:
        write_folder(path, state, shards=3 if given == "shards" else 1)
    named = unique_tensors(load_released(path, config=CONFIG, **options))
    names = released_names(named)
    assert sorted(names.values()) == sorted(state)
    assert all(torch.equal(named[name], state[key]) for name, key in names.items())


def test_the_sizes_come_from_the_config_beside_the_weights(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", released_state(SIZES))
    model = load_released(folder, config=CONFIG)
    assert (model.spec.num_heads, model.spec.head_dim, model.spec.num_blocks) == (2, 24, 2)
    assert {layer.scale for layer in _adapters(model)} == {SIZES.alpha / SIZES.rank}
    told = json.loads((folder / "config.json").read_text()) | {"_class_name": "OtherModel"}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="OtherModel"):
        load_released(folder, config=CONFIG)


def _adapters(model: torch.nn.Module) -> list[Any]:
    from seqtex_core.lora import lora_layers

    return [layer for _, layer in lora_layers(model)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", ["file", "folder", "shards"])
def test_export_is_lossless(tmp_path: Path, target: str, dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in released_state(SIZES).items()}
    folder = write_folder(tmp_path / "model", state)
    out = tmp_path / ("out.safetensors" if target == "file" else "out")
    options: dict[str, Any] = {"max_shard_bytes": 60_000} if target == "shards" else {}
    written = save_released(load_released(folder, config=CONFIG), out, **options)
    found: State = {}
    for path in written:
        if path.suffix == ".safetensors":
            found |= load_file(path)
    assert len([path for path in written if path.suffix == ".safetensors"]) > (target == "shards")
    assert set(found) == set(state)
    assert all(found[key].dtype == dtype and torch.equal(found[key], state[key]) for key in state)
    options = {"model": WAN_TINY} if target == "file" else {}
    again = unique_tensors(load_released(out, config=CONFIG, **options))
    assert all(torch.equal(again[n], state[k]) for n, k in released_names(again).items())


def test_fewer_files_over_more_leave_no_old_shard(tmp_path: Path) -> None:
    model = load_released(write_folder(tmp_path / "model", released_state(SIZES)), config=CONFIG)
    out = tmp_path / "out"
    save_released(model, out, max_shard_bytes=50_000)
    (out / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"somebody's")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for shard_bytes in (150_000, 10**9):
        save_released(model, out, max_shard_bytes=shard_bytes)
        (out / "diffusion_pytorch_model.fp16.safetensors").rename(tmp_path / "aside")
        named = unique_tensors(load_released(out, config=CONFIG))
        assert all(torch.equal(t, named[n]) for n, t in unique_tensors(model).items())
        (tmp_path / "aside").rename(out / "diffusion_pytorch_model.fp16.safetensors")


@pytest.mark.parametrize("shards", [[], {}, None])
def test_an_index_without_shards_is_refused(tmp_path: Path, shards: object) -> None:
    folder = write_folder(tmp_path / "model", released_state(SIZES), shards=2)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(WeightsError, match="a weight_map from tensors to shards"):
        load_released(folder, config=CONFIG)


def test_diffusers_itself_reads_the_exported_folder(tmp_path: Path) -> None:
    """Index, headers and alignment are those of the format: read by its own library."""
    from safetensors import safe_open

    model = load_released(write_folder(tmp_path / "model", released_state(SIZES)), config=CONFIG)
    mixed = unique_tensors(model)["shells.uv.scale_shift_table"]
    mixed.data = mixed.data[..., :].bfloat16()
    save_released(model, tmp_path / "out.safetensors")
    with safe_open(str(tmp_path / "out.safetensors"), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("scale_shift_table_uv"), mixed)
    header = int.from_bytes((tmp_path / "out.safetensors").read_bytes()[:8], "little")
    assert header % 8 == 0


def drop(state: State) -> None:
    for layer in range(SIZES.layers):
        del state[f"blocks.{layer}.attnuv.to_q.weight"]


def add(state: State) -> None:
    state["blocks.0.attn1.to_out.2.weight"] = torch.zeros(1)


def reshape(state: State) -> None:
    state["proj_out.bias"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop, r"2 missing: blocks\.\*\.attnuv\.to_q\.weight \(2x\)"),
        (add, r"1 unexpected: blocks\.\*\.attn1\.to_out\.\*\.weight"),
        (reshape, r"1 misshapen: proj_out\.bias \[7\] instead of \[64\]"),
    ],
)
def test_wrong_keys_are_told_in_groups_before_a_tensor_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[State], None],
    told: str,
) -> None:
    def no_reading(self: WeightFiles, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")

    state = released_state(SIZES)
    damage(state)
    folder = write_folder(tmp_path / "model", state)
    monkeypatch.setattr(WeightFiles, "read", no_reading)
    with pytest.raises(WeightsError, match=told):
        load_released(folder, config=CONFIG)


def test_another_rank_and_a_plain_wan_model_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", released_state(SIZES))
    with pytest.raises(WeightsError, match=r"24 misshapen: .*\[4, 48\] instead of \[128, 48\]"):
        load_released(folder)
    plain = {n: t.detach() for n, t in native_tensors(load_backbone("wan-tiny", seed=0)).items()}
    save_file(plain, tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match="load_backbone reads plain Wan"):
        load_released(tmp_path / "wan.safetensors", model="wan-tiny", config=CONFIG)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="pickle"):
        load_released(tmp_path / "model.bin")


@pytest.mark.parametrize("change", [{"uv_share": frozenset({"cross_attn"})}, {"mv_train": "full"}])
def test_a_doubling_without_keys_in_the_layout_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        load_released("anywhere", config=replace(CONFIG, **change))


def test_merged_adapters_and_other_backbones_are_not_exported(tmp_path: Path) -> None:
    model = load_released(write_folder(tmp_path / "model", released_state(SIZES)), config=CONFIG)
    merge_lora(model)
    with pytest.raises(UsageError, match="unmerged"):
        save_released(model, tmp_path / "out")
    other = empty_released(_cogvideox(), CONFIG)
    with pytest.raises(UsageError, match="a Wan model"):
        save_released(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _cogvideox() -> Any:
    from seqtex_backbones.registry import BACKBONES

    return BACKBONES.get("cogvideox-tiny-2b")


def test_precision_and_device_by_component(tmp_path: Path) -> None:
    """The meta device stands for any other than the CPU."""
    folder = write_folder(tmp_path / "model", released_state(SIZES))
    places: dict[Component, WeightPlacement] = {
        "lora": WeightPlacement(dtype=torch.float32),
        "uv": WeightPlacement(device="meta"),
    }
    model = load_released(folder, config=CONFIG, dtype=torch.bfloat16, components=places)
    for name, tensor in unique_tensors(model).items():
        part = component_of(name)
        sensitive = {"scale_shift_table", "time_embedder", "norm2"} & set(name.split("."))
        wide = part == "lora" or bool(sensitive)
        assert tensor.dtype == (torch.float32 if wide else torch.bfloat16), name
        assert tensor.is_meta == (part == "uv"), name
    wrong: Any = {"views": WeightPlacement()}
    with pytest.raises(UsageError, match="views"):
        load_released(folder, config=CONFIG, components=wrong)
    with pytest.raises(UsageError, match="int8"):
        load_released(folder, config=CONFIG, dtype=torch.int8)


PEAK = """
import gc, json, sys
from dataclasses import replace
from pathlib import Path
import torch
from seqtex_backbones.seqtex_release import (
    RELEASED_DECOUPLED, empty_released, load_released, released_entry
)

folder = Path(sys.argv[1])
config = replace(RELEASED_DECOUPLED, lora_rank=4, lora_alpha=2.0)
told = json.loads((folder / "config.json").read_text())
empty_released(released_entry(told, source="config.json"), config)  # all imports are done

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

for dtype in (torch.float32, torch.bfloat16):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    model = load_released(folder, config=config, dtype=dtype)
    sum(float(t.detach().sum()) for t in model.parameters())  # every page is used
    print(resident("VmHWM") - before, sum(t.nbytes for t in model.parameters()))
    del model
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """190 MB of weights in fp32; the largest tensor has 18 MB."""
    sizes = replace(SIZES, heads=6, head_dim=128, layers=3, ffn=2048)
    state = {key: torch.ones(shape) for key, shape in released_shapes(sizes).items()}
    folder = write_folder(tmp_path_factory.mktemp("large") / "model", state)
    config = WanConfig(
        num_attention_heads=6, num_layers=3, ffn_dim=2048, text_dim=sizes.text, freq_dim=sizes.freq
    )
    (folder / "config.json").write_text(json.dumps(config.to_diffusers()))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux tells it")
def test_loading_keeps_about_one_copy_of_the_weights(large: Path) -> None:
    """Measured in a process of its own, converted and as they are; a second copy is 100 % more."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(large)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    for line in done.stdout.splitlines():
        peak, weights = map(int, line.split())
        assert weights > 90e6
        # one tensor on its way (18 MB), and 6 MB for code that runs here for the first time
        assert 0.9 * weights < peak < weights + 18e6 + 6e6
    assert len(done.stdout.splitlines()) == 2
