"""The decoupled transformer on a tiny backbone: inputs refused, caches, files, randomness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqtex_backbones.registry import empty_backbone, load_backbone
from seqtex_core.adapter import SHAREABLE, copy_for_branch
from seqtex_core.attention.reference import REFERENCE
from seqtex_core.checkpoint import load_model, save_model
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.lora import merge_lora
from seqtex_core.lora_exchange import load_mv_lora, mv_lora_state_dict, save_mv_lora
from seqtex_core.transformer import SeqTexTransformer, StepCache

SIZES = {"views": (2, 4, 6), "texture": (1, 8, 8)}
STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}
CONFIG = DecoupledConfig(lora_rank=2, lora_alpha=1.0)


def make(config: DecoupledConfig = CONFIG, **options: Any) -> SeqTexTransformer:
    return SeqTexTransformer(load_backbone("wan-tiny", seed=0), config, **options)


@pytest.fixture(scope="module")
def transformer() -> SeqTexTransformer:
    return make()


@pytest.fixture
def cache(transformer: SeqTexTransformer) -> StepCache:
    return transformer.prepare(transformer.layout(SIZES, STREAMS))


def latents(batch: int = 1) -> dict[str, torch.Tensor]:
    return {name: torch.randn(batch, 16, *size) for name, size in SIZES.items()}


def sigmas(batch: int = 1) -> dict[str, torch.Tensor]:
    return {name: torch.rand(batch, size[0]) for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"geometry_order": "sideways"}, "geometry_order"),
        ({"uv_key_source": "raw"}, "uv_key_source"),
        ({"mv_train": "none"}, "mv_train"),
        ({"uv_share": frozenset({"ffn"})}, "ffn"),
        ({"lora_rank": 0}, "lora_rank"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        DecoupledConfig(**options)


def test_unknown_attention_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="sdpa"):
        make(attention="fastest")
    assert make(attention=REFERENCE).attend is REFERENCE


def test_sharing_names_are_checked() -> None:
    block = load_backbone("wan-tiny", seed=0).blocks[0]
    with pytest.raises(UsageError, match="uv_share"):
        copy_for_branch(block, frozenset({"everything"}))


def test_velocities_are_shaped_and_typed_like_latents(
    transformer: SeqTexTransformer, cache: StepCache
) -> None:
    given = {name: value.double() for name, value in latents().items()}
    with torch.no_grad():
        out = transformer(given, sigmas(), cache)
    assert {n: (v.shape, v.dtype) for n, v in out.items()} == {
        n: (v.shape, v.dtype) for n, v in given.items()
    }


@pytest.mark.parametrize(
    ("drop_latents", "drop_sigmas"),
    [(["views"], ["views"]), ([], ["texture"]), (["texture"], []), (["views", "texture"], [])],
)
def test_streams_are_given_whole_and_views_always(
    transformer: SeqTexTransformer,
    cache: StepCache,
    drop_latents: list[str],
    drop_sigmas: list[str],
) -> None:
    x = {name: value for name, value in latents().items() if name not in drop_latents}
    s = {name: value for name, value in sigmas().items() if name not in drop_sigmas}
    with pytest.raises(UsageError, match="latents"):
        transformer(x, s, cache)


@pytest.mark.parametrize(
    ("what", "name", "shape"),
    [
        ("latents", "views", (1, 16, 2, 4, 8)),
        ("latents", "views", (1, 15, 2, 4, 6)),
        ("latents", "texture", (2, 16, 1, 8, 8)),
        ("sigmas", "views", (1, 3)),
        ("sigmas", "texture", (1,)),
    ],
)
def test_wrong_shapes_are_named(
    transformer: SeqTexTransformer,
    cache: StepCache,
    what: str,
    name: str,
    shape: tuple[int, ...],
) -> None:
    x, s = latents(), sigmas()
    {"latents": x, "sigmas": s}[what][name] = torch.rand(shape)
    with pytest.raises(UsageError, match=rf"{what}\['{name}'\]"):
        transformer(x, s, cache)


def test_a_batch_needs_the_text_of_a_batch(
    transformer: SeqTexTransformer, cache: StepCache
) -> None:
    with pytest.raises(UsageError, match="latents"):
        transformer(latents(2), sigmas(2), cache)
    double = transformer.prepare(cache.layout, batch_size=2)
    with torch.no_grad():
        assert transformer(latents(2), sigmas(2), double)["views"].shape[0] == 2


def geometry(channels: int = 16, **sizes: tuple[int, int, int]) -> dict[str, GeometryLatents]:
    return {
        name: GeometryLatents(
            position=torch.randn(1, channels, *size), normal=torch.randn(1, channels, *size)
        )
        for name, size in (sizes or SIZES).items()
    }


@pytest.mark.parametrize(
    "maps",
    [
        geometry(views=(2, 4, 6)),
        geometry(views=(2, 4, 6), texture=(1, 8, 8), more=(1, 2, 2)),
        geometry(views=(2, 4, 6), texture=(1, 8, 4)),
        geometry(3),
    ],
    ids=["missing", "extra", "size", "channels"],
)
def test_geometry_covers_all_groups_at_their_sizes(
    transformer: SeqTexTransformer, maps: dict[str, GeometryLatents]
) -> None:
    with pytest.raises(UsageError, match="geometry"):
        transformer.prepare(transformer.layout(SIZES, STREAMS), geometry=maps)


def test_position_and_normal_have_one_shape() -> None:
    with pytest.raises(UsageError, match="one shape"):
        GeometryLatents(position=torch.zeros(1, 2, 1, 4, 4), normal=torch.zeros(1, 2, 1, 4, 2))


@pytest.mark.parametrize(
    ("sizes", "streams", "told"),
    [
        ({"views": (2, 5, 6)}, {"views": "mv"}, "multiples of the patch"),
        ({"views": (0, 4, 6)}, {"views": "mv"}, "multiples of the patch"),
        ({"views": (1, 4, 6)}, {}, "streams"),
        ({"views": (1, 4, 6)}, {"views": "mv", "texture": "uv"}, "streams"),
    ],
)
def test_layouts_that_cannot_be(
    transformer: SeqTexTransformer,
    sizes: dict[str, tuple[int, int, int]],
    streams: dict[str, Any],
    told: str,
) -> None:
    with pytest.raises(UsageError, match=told):
        transformer.layout(sizes, streams)


def test_a_layout_needs_views(transformer: SeqTexTransformer) -> None:
    layout = transformer.layout({"texture": (1, 8, 8)}, {"texture": "uv"})
    with pytest.raises(UsageError, match="mv stream"):
        transformer.prepare(layout)


def test_text_has_the_width_of_the_encoder(transformer: SeqTexTransformer) -> None:
    with pytest.raises(UsageError, match="text"):
        transformer.prepare(transformer.layout(SIZES, STREAMS), text=torch.zeros(1, 8, 5))


def test_an_image_is_refused_where_none_is_read(transformer: SeqTexTransformer) -> None:
    with pytest.raises(UsageError, match="image"):
        transformer.prepare(transformer.layout(SIZES, STREAMS), image=torch.zeros(1, 4, 20))


def test_text_and_image_are_cast_to_the_model() -> None:
    backbone = load_backbone("wan-tiny-i2v", seed=0, dtype=torch.bfloat16)
    transformer = SeqTexTransformer(backbone, CONFIG)
    cache = transformer.prepare(
        transformer.layout(SIZES, STREAMS),
        geometry=geometry(),
        text=torch.randn(1, 7, 32),
        image=torch.randn(1, 4, 20),
    )
    with torch.no_grad():
        out = transformer(latents(), sigmas(), cache)
    assert all(bool(value.isfinite().all()) for value in out.values())


def test_fp32_trainables_on_a_bf16_base_learn_under_autocast() -> None:
    """The usual mixed precision: a frozen half-precision base, fp32 for what trains."""
    backbone = load_backbone("wan-tiny", seed=0, dtype=torch.bfloat16)
    transformer = SeqTexTransformer(backbone, CONFIG)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    transformer.gradient_checkpointing = True
    with torch.autocast("cpu", torch.bfloat16):
        cache = transformer.prepare(transformer.layout(SIZES, STREAMS), geometry=geometry())
        out = transformer(latents(), sigmas(), cache)
    sum(value.square().mean() for value in out.values()).backward()
    trained = [p for p in transformer.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


def test_dropped_tokens_have_no_velocity_in_models_that_convert_their_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A v-prediction model adds its input, which is there where tokens were dropped, too."""
    transformer = make()
    for shell in transformer.shells.values():
        monkeypatch.setattr(shell, "to_velocity", lambda prediction, x, sigma: prediction + x)
    keep = {"texture": torch.tensor([0, 5])}
    cache = transformer.prepare(transformer.layout(SIZES, STREAMS, keep=keep))
    with torch.no_grad():
        texture = transformer(latents(), sigmas(), cache)["texture"][0, :, 0]
    shown = torch.zeros(8, 8, dtype=torch.bool)
    shown[0:2, 0:2] = shown[2:4, 2:4] = True  # tokens 0 and 5 of 4 x 4, patches of 2 x 2
    assert bool((texture[:, ~shown] == 0).all())
    assert bool((texture[:, shown] != 0).all())


def test_caches_are_precomputed_only_without_gradients(transformer: SeqTexTransformer) -> None:
    layout = transformer.layout(SIZES, STREAMS)
    assert transformer.prepare(layout).blocks is None
    with torch.no_grad():
        blocks = transformer.prepare(layout, geometry=geometry()).blocks
    assert blocks is not None
    assert [set(block.geometry) for block in blocks] == [{"mv", "uv"}] * 2


@pytest.mark.parametrize("share", [(), ("cross_attn",), ("time_text",), SHAREABLE])
def test_context_keys_are_made_once_where_both_branches_use_the_same(
    share: tuple[str, ...],
) -> None:
    transformer = make(DecoupledConfig(uv_share=frozenset(share), lora_rank=2))
    layout = transformer.layout(SIZES, STREAMS)
    text = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        blocks = transformer.prepare(layout, text=text).blocks
    assert blocks is not None
    for block in blocks:
        assert (block.cross["uv"] is block.cross["mv"]) == (share == SHAREABLE)
        # a copied part is equal at init
        assert torch.equal(block.cross["uv"][0].key, block.cross["mv"][0].key)


def test_training_compiles_without_graph_breaks() -> None:
    """Nothing precomputed: every block makes its geometry and context keys in the graph."""
    transformer = make()
    cache = transformer.prepare(transformer.layout(SIZES, STREAMS), geometry=geometry())
    x, levels = latents(), sigmas()
    want = transformer(x, levels, cache)["texture"]
    transformer.compile_blocks(backend="aot_eager", fullgraph=True)
    got = transformer(x, levels, cache)["texture"]
    got.square().mean().backward()
    # rotations are complex in eager mode, real in the graph: a few roundings
    torch.testing.assert_close(got, want, rtol=0, atol=4e-6)


def test_building_draws_only_from_the_configured_seed() -> None:
    backbone = load_backbone("wan-tiny", seed=0)
    state = torch.random.get_rng_state()
    first = mv_lora_state_dict(SeqTexTransformer(backbone, CONFIG))
    assert torch.equal(torch.random.get_rng_state(), state)
    again = mv_lora_state_dict(make())
    other = mv_lora_state_dict(make(DecoupledConfig(lora_rank=2, lora_seed=1)))
    name = "transformer.blocks.1.ffn.net.2.lora_A.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_an_empty_model_is_filled_from_a_file(tmp_path: Any) -> None:
    source = make()
    save_model(source, tmp_path / "m.safetensors")
    empty = SeqTexTransformer(empty_backbone("wan-tiny"), CONFIG)
    assert all(parameter.is_meta for parameter in empty.parameters())
    load_model(empty, tmp_path / "m.safetensors")
    wanted = source.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in empty.state_dict().items())
    block = next(empty.muv_blocks())
    mv, uv = (dict(branch.named_parameters()) for branch in (block.mv, block.uv))
    shared = {name for name in uv if name in mv and mv[name] is uv[name]}
    assert shared == {name for name in uv if name.startswith("attn2.")}
    assert [p.requires_grad for p in empty.parameters()] == [
        p.requires_grad for p in source.parameters()
    ]


def test_a_saved_file_is_replaced_in_one_step(tmp_path: Any, monkeypatch: Any) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("seqtex_core.weight_files.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(make(), path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.safetensors", b"old")]


def test_equal_models_make_equal_files(tmp_path: Any) -> None:
    """Seven texts and that of the format: left in any order, one in 40,320 would be the same."""
    texts = {f"key {i}": f'é "{i}"\n' for i in range(7)}
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_model(torch.nn.Linear(2, 3), one, metadata=texts)
    layer = torch.nn.Linear(2, 3)
    assert load_model(layer, one) == {"format": "pt", **texts}
    save_model(layer, other, metadata=dict(reversed(texts.items())))
    assert other.read_bytes() == one.read_bytes()


def test_merged_adapters_are_not_saved_or_overwritten(tmp_path: Any) -> None:
    model = make()
    save_model(model, tmp_path / "m.safetensors")
    merge_lora(model)
    with pytest.raises(UsageError, match="unmerge_lora"):
        save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="unmerge_lora"):
        load_model(model, tmp_path / "m.safetensors")


def test_damaged_files_are_refused(tmp_path: Any) -> None:
    save_model(make(), tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("text", b"hello"), ("none", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=r"a safetensors file.*cannot be read"):
            load_model(make(), tmp_path / name)
    with pytest.raises(WeightsError, match="no such file"):
        load_model(make(), tmp_path / "absent.safetensors")


def test_adapter_files_of_another_scale_or_rank_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "lora.safetensors"
    save_mv_lora(make(), path)
    with pytest.raises(WeightsError, match=r"alpha 2\.0"):
        load_mv_lora(make(DecoupledConfig(lora_rank=2, lora_alpha=2.0)), path)
    with pytest.raises(WeightsError, match="24 misshapen"):
        load_mv_lora(make(DecoupledConfig(lora_rank=4, lora_alpha=2.0)), path)
    with pytest.raises(UsageError, match="adapters"):
        load_mv_lora(make(DecoupledConfig(mv_train="full")), path)


def test_all_sharing_options_name_real_parts() -> None:
    backbone = load_backbone("wan-tiny", seed=0)
    named = {*backbone.shell.shareable, *backbone.blocks[0].shareable}
    assert named == set(SHAREABLE)
