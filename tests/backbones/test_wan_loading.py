"""Loading Wan weights: formats, refusals, precision, memory, randomness."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from torch import Tensor

from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_backbones.wan.keys import to_original
from seqtex_core.adapter import Backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_files import WeightFiles

Save = Callable[[Mapping[str, Tensor], Path], None]


def seeded() -> Backbone:
    return load_backbone("wan-tiny", seed=3)


def weights() -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in native_tensors(seeded()).items()}


def assert_same_weights(backbone: Backbone, expected: Mapping[str, Tensor]) -> None:
    loaded = native_tensors(backbone)
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert all(tensor.requires_grad for tensor in loaded.values())


def write_folder(folder: Path, *, shards: int = 1, config: Mapping[str, Any] | None = None) -> Path:
    """A folder as diffusers writes it."""
    folder.mkdir(parents=True)
    state = weights()
    if shards == 1:
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
    else:
        names = list(state)
        index: dict[str, str] = {}
        for shard in range(shards):
            file = f"diffusion_pytorch_model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: state[name] for name in names[shard::shards]}
            index |= dict.fromkeys(part, file)
            save_file(part, folder / file)
        told = {"metadata": {}, "weight_map": index}
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(told))
    written = {"_class_name": "WanTransformer3DModel", **WAN_TINY.config.to_diffusers()}
    (folder / "config.json").write_text(json.dumps({**written, **(config or {})}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("inside", ["", "pipeline"])
def test_diffusers_folders(tmp_path: Path, shards: int, inside: str) -> None:
    folder = tmp_path / "pipeline" / "transformer" if inside else tmp_path / "model"
    write_folder(folder, shards=shards)
    given = tmp_path / inside if inside else folder
    assert_same_weights(load_backbone("wan-tiny", weights=given), weights())


def test_the_index_of_a_sharded_file_names_its_shards(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", shards=3)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    assert_same_weights(load_backbone("wan-tiny", weights=index), weights())


def test_a_folder_written_by_diffusers_itself(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**WAN_TINY.config.to_diffusers())
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_weights(load_backbone("wan-tiny", weights=tmp_path), model.state_dict())


@pytest.mark.parametrize("original", [True, False])
def test_single_files_in_either_format(tmp_path: Path, original: bool) -> None:
    state = {to_original(name) if original else name: tensor for name, tensor in weights().items()}
    save_file(state, tmp_path / "wan.safetensors")
    loaded = load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")
    assert_same_weights(loaded, weights())


def test_original_shards_with_the_authors_config(tmp_path: Path) -> None:
    state = {to_original(name): tensor for name, tensor in weights().items()}
    names = list(state)
    for shard in range(2):
        part = {name: state[name] for name in names[shard::2]}
        save_file(part, tmp_path / f"diffusion_pytorch_model-{shard}.safetensors")
    told = {"_class_name": "WanModel", "model_type": "t2v", "dim": 48, "num_heads": 2}
    told |= {"num_layers": 2, "ffn_dim": 96, "in_dim": 16, "out_dim": 16, "freq_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="text_dim is 4096, not 32"):
        load_backbone("wan-tiny", weights=tmp_path)  # the authors' files have no other width
    (tmp_path / "config.json").unlink()
    assert_same_weights(load_backbone("wan-tiny", weights=tmp_path), weights())


def test_the_model_computes_the_same_from_either_format(tmp_path: Path) -> None:
    state = {to_original(name): tensor for name, tensor in weights().items()}
    save_file(state, tmp_path / "wan.safetensors")
    backbone = load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")
    x, sigma, text = torch.randn(1, 16, 2, 4, 4), torch.rand(1, 2), torch.randn(1, 8, 32)
    outputs = [
        b.reference_velocity(native_tensors(b), x, sigma, text) for b in (backbone, seeded())
    ]
    assert torch.equal(*outputs)


def test_a_hub_id_downloads_only_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "snapshot" / "transformer")
    calls: list[tuple[str, Any, Any]] = []

    def download(
        hub_id: str, *, allow_patterns: Any, ignore_patterns: Any, local_files_only: bool, **_: Any
    ) -> str:
        listed = ["transformer/a.safetensors", "text_encoder/b.safetensors", "vae/c.safetensors"]
        fetched = filter_repo_objects(
            listed, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert list(fetched) == ["transformer/a.safetensors"]
        calls.append((hub_id, allow_patterns, local_files_only))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = load_backbone("wan-tiny", weights="Owner/Wan-Tiny", local_files_only=True)
    assert_same_weights(loaded, weights())
    ((hub_id, patterns, local),) = calls
    assert (hub_id, local) == ("Owner/Wan-Tiny", True)
    assert not any(pattern.endswith((".bin", ".pth", ".pt", "*")) for pattern in patterns)


def test_a_hub_id_that_is_not_cached_is_refused_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="a cached hub id"):
        load_backbone("wan-tiny", weights="no-owner/no-model", local_files_only=True)


@pytest.mark.parametrize("given", ["./absent", "absent.safetensors", "a/b.safetensors", "absent"])
def test_what_is_not_there_is_never_looked_up_on_the_hub(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(WeightsError, match="no such file"):
        load_backbone("wan-tiny", weights=given)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_pickles_are_refused_unopened(tmp_path: Path, suffix: str, in_folder: bool) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(WeightsError, match="pickle"):
        load_backbone("wan-tiny", weights=tmp_path if in_folder else path)


def test_empty_folders_and_missing_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="an empty folder"):
        load_backbone("wan-tiny", weights=tmp_path)
    folder = write_folder(tmp_path / "model", shards=3)
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 missing: diffusion_pytorch_model-00002"):
        load_backbone("wan-tiny", weights=folder)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("{")
    with pytest.raises(WeightsError, match="readable JSON"):
        load_backbone("wan-tiny", weights=folder)


def test_a_folder_of_another_size_is_refused_by_its_config(tmp_path: Path) -> None:
    """Heads are invisible in the shapes: 48 channels are 2 x 24 or 4 x 12."""
    folder = write_folder(
        tmp_path / "model", config={"num_attention_heads": 4, "attention_head_dim": 12}
    )
    with pytest.raises(WeightsError, match=r"num_attention_heads is 4, not 2"):
        load_backbone("wan-tiny", weights=folder)


def no_reading(self: WeightFiles, name: str) -> Tensor:
    raise AssertionError(f"{name} was read before the names and shapes were compared")


def test_wrong_weights_are_told_in_groups_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = weights()
    for index in range(2):
        del state[f"blocks.{index}.attn1.norm_q.weight"]
        state[f"blocks.{index}.attn1.extra"] = torch.zeros(1)
    state["proj_out.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "wan.safetensors")
    monkeypatch.setattr(WeightFiles, "read", no_reading)
    with pytest.raises(WeightsError) as caught:
        load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")
    told = str(caught.value)
    assert "2 missing: blocks.*.attn1.norm_q.weight (2x)" in told
    assert "2 unexpected: blocks.*.attn1.extra (2x)" in told
    assert "1 misshapen: proj_out.bias [7] instead of [64]" in told


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"69 missing.*1 unexpected: encoder\.weight"):
        load_backbone("wan-tiny", weights=tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"wan2\.1-t2v-1\.3b weights in.*825"):
        load_backbone("wan2.1-t2v-1.3b", weights=tmp_path / "other.safetensors")


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    state = {to_original(name): tensor for name, tensor in weights().items()}
    state["proj_out.bias"] = torch.zeros(64)  # diffusers' name of head.head.bias
    save_file(state, tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match="70 tensors under 69 names"):
        load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")


def test_quantised_files_are_refused(tmp_path: Path) -> None:
    state = weights()
    state["proj_out.bias"] = state["proj_out.bias"].to(torch.int8)
    save_file(state, tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match=r"'proj_out\.bias'.*I8"):
        load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")
    (tmp_path / "wan.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(64))
    with pytest.raises(WeightsError, match=r"got GGUF\. Quantised"):
        load_backbone("wan-tiny", weights=tmp_path / "wan.gguf")


@pytest.mark.parametrize("options", [{}, {"seed": 0, "weights": "somewhere"}])
def test_either_weights_or_a_seed(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="either weights or a seed"):
        load_backbone("wan-tiny", **options)


def test_weights_and_dtypes_of_another_kind_are_named() -> None:
    with pytest.raises(UsageError, match="weights: expected a path or a hub id, got dict"):
        load_backbone("wan-tiny", weights=weights())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a floating-point torch\.dtype, got 'bf16'"):
        load_backbone("wan-tiny", seed=0, dtype="bf16")  # type: ignore[arg-type]


def test_seeds_are_reproducible_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = native_tensors(load_backbone("wan-tiny", seed=5))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again, other = (native_tensors(load_backbone("wan-tiny", seed=seed)) for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["proj_out.weight"], other["proj_out.weight"])


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_sensitive_parts_in_fp32(
    tmp_path: Path, from_file: bool, dtype: torch.dtype
) -> None:
    """The same parts as diffusers keeps when it loads in half precision."""
    from diffusers import WanTransformer3DModel

    folder = write_folder(tmp_path / "model")
    source: dict[str, Any] = {"weights": folder} if from_file else {"seed": 3}
    loaded = native_tensors(load_backbone("wan-tiny", dtype=dtype, **source))
    theirs = WanTransformer3DModel.from_pretrained(
        str(folder), torch_dtype=dtype, local_files_only=True
    ).state_dict()
    assert {n: t.dtype for n, t in loaded.items()} == {n: t.dtype for n, t in theirs.items()}
    assert all(torch.equal(loaded[name], theirs[name]) for name in theirs)


def test_half_precision_is_as_accurate_as_that_of_diffusers(tmp_path: Path) -> None:
    """Error against fp32 at most twice diffusers' own, with the same parts kept in fp32."""
    from diffusers import WanTransformer3DModel

    folder = write_folder(tmp_path / "model")
    x, sigma, text = torch.randn(1, 16, 2, 4, 4), torch.rand(1), torch.randn(1, 8, 32)
    exact = seeded().reference_velocity(weights(), x, sigma, text)
    backbone = load_backbone("wan-tiny", weights=folder, dtype=torch.bfloat16)
    transformer = SeqTexTransformer(backbone, DecoupledConfig(mv_train="full"))
    model = WanTransformer3DModel.from_pretrained(
        str(folder), torch_dtype=torch.bfloat16, local_files_only=True
    )
    with torch.no_grad():
        half = (x.bfloat16(), 1000.0 * sigma, text.bfloat16())
        theirs = model(*half, return_dict=False)[0].float()
        cache = transformer.prepare(
            transformer.layout({"views": (2, 4, 4)}, {"views": "mv"}), text=text
        )
        ours = transformer({"views": x}, {"views": sigma.expand(1, 2)}, cache)["views"]
    error, allowed = (ours - exact).square().mean(), 4 * (theirs - exact).square().mean()
    assert 0 < float(error) <= float(allowed)


def test_files_in_half_precision_are_read_as_they_are(tmp_path: Path) -> None:
    state = {name: tensor.to(torch.bfloat16) for name, tensor in weights().items()}
    save_file(state, tmp_path / "wan.safetensors")
    loaded = native_tensors(load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors"))
    assert loaded["proj_out.weight"].dtype == torch.bfloat16
    assert loaded["scale_shift_table"].dtype == torch.float32
    full = load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors", dtype=torch.float32)
    assert {t.dtype for t in native_tensors(full).values()} == {torch.float32}


def test_the_device_is_that_asked_for(tmp_path: Path) -> None:
    """The meta device stands for any other than the CPU."""
    folder = write_folder(tmp_path / "model")
    for source in ({"weights": folder}, {"seed": 0}):
        loaded = load_backbone("wan-tiny", device="meta", **source)
        assert all(tensor.is_meta for tensor in native_tensors(loaded).values())


def test_loading_keeps_about_one_copy_in_memory(tmp_path: Path) -> None:
    """Every tensor is read once and stored as it was read: no second storage of the same size."""
    write_folder(tmp_path / "model")
    read: dict[str, int] = {}
    original = WeightFiles.read

    def watch(self: WeightFiles, name: str) -> Tensor:
        tensor = original(self, name)
        assert name not in read
        read[name] = tensor.data_ptr()
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightFiles, "read", watch)
        loaded = native_tensors(load_backbone("wan-tiny", weights=tmp_path / "model"))
    assert {name: tensor.data_ptr() for name, tensor in loaded.items()} == read
