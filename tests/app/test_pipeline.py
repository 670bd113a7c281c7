"""The model path: what the sampler sees, what comes out, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from seqtex.generate import make_plan
from seqtex.latents import encode_geometry, reference_frames
from seqtex.library_words import translated
from seqtex.models.config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from seqtex.models.folder import CONFIG_NAME
from seqtex.models.load import build_transformer, load_model
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.run_options import RunOptions
from seqtex_backbones.codecs.pixel import PixelCodec
from seqtex_backbones.codecs.wan_vae import WanVAECodec
from seqtex_core.checkpoint import save_model
from seqtex_core.errors import InputError, UsageError, WeightsError
from seqtex_core.roles import Role

SIZES = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 1, "ffn_dim": 96}
ONE_STEP, TWO_STEPS = RunOptions(steps=1), RunOptions(steps=2)
CONFIG = ModelConfig(
    name="minute",
    summary="for tests",
    backbone={
        "name": "minute",
        "architecture": "wan",
        "config": SIZES
        | {"in_channels": 12, "out_channels": 12, "text_dim": 8, "freq_dim": 32, "text_length": 1},
    },
    codec=PixelCodec(patch_size=2).to_config(),
    view_size=16,
    uv_size=32,
    supersample=2,
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG.to_json()))
    save_model(build_transformer(CONFIG), folder / WEIGHTS_NAME)
    return folder


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return SeqTexPipeline.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="module")
def job(assets):
    return prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})


def test_a_mesh_and_a_picture_become_a_texture(pipeline, assets):
    seen: list[tuple[str, int, int]] = []
    result = pipeline(
        assets / "figure.glb",
        {"front": assets / "views" / "0_front.png"},
        options=RunOptions(steps=3),
        on_progress=lambda *state: seen.append(state),
    )
    assert [tuple(texture.shape) for texture in result.textures] == [(3, 32, 32)]
    assert result.views is not None
    assert result.views.shape == (4, 3, 16, 16)
    for image in (*result.textures, result.views):
        assert image.isfinite().all()
        assert 0 <= image.min() <= image.max() <= 1
    assert ("Denoise", 3, 3) in seen
    assert torch.equal(result.texture, result.textures[0])
    assert result.maps.views.size == (16, 16)
    assert [maps.size for maps in result.maps.textures] == [(32, 32)]
    assert set(result.timings) >= {"Load", "Maps", "Encode", "Denoise", "Decode"}


def test_one_picture_alone_shows_the_front(pipeline, assets):
    path = assets / "views" / "0_front.png"
    named = pipeline(assets / "figure.glb", {"front": path}, options=ONE_STEP)
    for picture in (str(path), path, Image.open(path), np.asarray(Image.open(path))):
        made = pipeline(assets / "figure.glb", picture, options=ONE_STEP)
        assert torch.equal(made.texture, named.texture)


@pytest.mark.parametrize("references", [None, {}])
def test_a_task_that_needs_a_picture_says_so(pipeline, assets, references):
    with pytest.raises(UsageError, match=r"references: expected at least one picture"):
        pipeline(assets / "figure.glb", references)


@pytest.mark.parametrize("seed", ["1", -1, 2**63, 1.5, None])
def test_a_seed_is_a_whole_number(pipeline, job, seed):
    with pytest.raises(UsageError, match="seed: expected a whole number"):
        pipeline(job, seed=seed)


def test_seeds_of_other_libraries_are_whole_numbers(pipeline, job):
    made = pipeline(job, options=ONE_STEP, seed=np.int64(3))
    assert torch.equal(made.texture, pipeline(job, options=ONE_STEP, seed=3).texture)
    assert json.dumps(made.manifest.to_json()["seed"]) == "3"


def test_a_library_user_is_told_arguments_not_options(pipeline, assets, tmp_path):
    with pytest.raises(WeightsError) as lacking:
        SeqTexPipeline.from_pretrained("wan2.1-t2v-1.3b")
    assert "weights=DIR" in str(lacking.value)
    assert "weights=ModelSources(random_seed=0)" in str(lacking.value)
    with pytest.raises(UsageError) as unneeded:
        SeqTexPipeline.from_pretrained("seqtex-tiny", weights=tmp_path)
    with pytest.raises(UsageError) as budget:
        SeqTexPipeline.from_pretrained("seqtex-tiny", memory=7)
    with pytest.raises(UsageError) as prompt:
        pipeline(assets / "figure.glb", assets / "views" / "0_front.png", prompt="a chair")
    with pytest.raises(InputError, match=r"check PrepareOptions\(up=...\)") as misfit:
        pipeline(assets / "figure.glb", {"left": assets / "views" / "0_front.png"})
    for error in (lacking, unneeded, budget, prompt, misfit):
        assert "--" not in str(error.value).replace("--local-dir", "")


def test_options_become_arguments():
    assert translated("--weights DIR, or --vae-weights a/b.") == (
        "weights=DIR, or weights=ModelSources(vae=a/b)."
    )
    assert translated("Leave --prompt out; --memory 12: ...") == (
        "Leave prompt out; memory=12: ..."
    )
    assert translated("`hf download a/b --local-dir DIR`") == "`hf download a/b --local-dir DIR`"
    assert translated(
        "Use --unwrap, or --charts directions, or --charts; see --up and --front."
    ) == (
        'Use PrepareOptions(uv="unwrap"), or PrepareOptions(charts="directions"), or '
        "PrepareOptions(charts=...); see PrepareOptions(up=...) and PrepareOptions(front=...)."
    )


def test_the_reference_view_comes_back_as_it_was_given(pipeline, job):
    result = pipeline(job, options=TWO_STEPS)
    given = reference_frames(job.references, num_views=4, size=16)[0]
    # Restored from clean latents, so only the rounding of the pixel transform remains (5e-7).
    torch.testing.assert_close(result.views[0], given, atol=2e-6, rtol=0)


def test_the_seed_decides(pipeline, job):
    first, same, other = (pipeline(job, options=TWO_STEPS, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.textures[0], same.textures[0])
    assert not torch.equal(first.textures[0], other.textures[0])


def test_the_reference_matters(pipeline, job):
    changed = replace(job.references[0], rgb=1 - job.references[0].rgb)
    other = replace(job, references=(changed,))
    first, second = pipeline(job, options=TWO_STEPS), pipeline(other, options=TWO_STEPS)
    assert not torch.allclose(first.textures[0], second.textures[0], atol=1e-4)


def test_sizes_and_steps_are_those_asked_for(pipeline, job):
    result = pipeline(job, options=RunOptions(steps=2, view_size=24, uv_size=48))
    assert result.textures[0].shape == (3, 48, 48)
    assert result.views.shape == (4, 3, 24, 24)
    settings = result.manifest.to_json()["settings"]
    assert (settings["steps"], settings["view_size"], settings["uv_size"]) == (2, 24, 48)


def test_manifest_names_the_weights(pipeline, job, model_folder):
    import hashlib

    record = pipeline(job, options=ONE_STEP, seed=9).manifest.to_json()
    digest = hashlib.sha256((model_folder / WEIGHTS_NAME).read_bytes()).hexdigest()
    assert record["model"] == {"name": "minute", "sha256": digest, "notes": []}
    assert (record["seed"], record["task"], record["method"]) == (9, "img2tex", "model")


def test_saved_weights_are_the_ones_that_run(model_folder):
    loaded = load_model(model_folder)
    assert loaded.is_trained
    built = build_transformer(CONFIG).state_dict()
    for name, tensor in loaded.transformer.state_dict().items():
        assert torch.equal(tensor, built[name]), name


def test_projected_references_reach_the_texture(pipeline, job):
    projected = pipeline(job, task="img2tex_projected", options=TWO_STEPS)
    assert projected.manifest.task == "img2tex_projected"
    assert projected.textures[0].shape == (3, 32, 32)
    changed = replace(job.references[0], rgb=1 - job.references[0].rgb)
    other = pipeline(
        replace(job, references=(changed,)), task="img2tex_projected", options=TWO_STEPS
    )
    assert not torch.allclose(projected.textures[0], other.textures[0], atol=1e-4)


def test_a_model_measured_from_the_projection_needs_one(pipeline, job):
    model = replace(
        pipeline.model, config=replace(pipeline.model.config, texture_base="projection")
    )
    with pytest.raises(UsageError, match="projection frame"):
        SeqTexPipeline(model)(job, task="img2tex", options=ONE_STEP)
    result = SeqTexPipeline(model)(job, task="img2tex_projected", options=ONE_STEP)
    assert result.texture.isfinite().all()


def test_geo2mv_makes_views_and_no_texture(pipeline, job):
    result = pipeline(replace(job, references=()), task="geo2mv", options=TWO_STEPS)
    assert result.textures == ()
    assert result.views.shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "mv2tex"}, "none for left, back, right"),
        ({"task": "tex2mv"}, "views never read the texture"),
        ({"task": "nothing"}, "img2tex"),
        ({"prompt": "a red chair"}, "made without text"),
    ],
)
def test_what_cannot_be_done_is_refused(pipeline, job, arguments, message):
    with pytest.raises(UsageError, match=message):
        pipeline(job, options=ONE_STEP, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "^steps: expected 1 to 1000"),
        ({"shift": 0.0}, "^shift: expected above 0"),
        ({"guidance": 0.5}, "^guidance: expected 1 to 100"),
        ({"guidance": 2.0}, "^guidance: expected prompt beside it"),
        ({"view_size": -16}, "^view_size: expected 16 to 8192 pixels"),
        ({"view_size": 18}, "^view_size: expected a multiple"),
        ({"uv_size": 33}, "^uv_size: expected a multiple"),
        ({"texture_size": 16}, "^texture_size: expected 32 or more"),
        ({"step_reuse": 1.5, "steps": 2}, "^step_reuse: expected above 0, at most 1"),
        (
            {"step_reuse": 0.1, "steps": 1},
            "^step_reuse: .*Leave step_reuse out, or take more steps",
        ),
    ],
)
def test_options_are_refused_before_the_mesh_is_read(pipeline, options, message):
    with pytest.raises(UsageError, match=message):
        pipeline("no_such_mesh.glb", "no_such_picture.png", options=RunOptions(**options))


def test_roles_follow_the_references(job, assets):
    views = {n: assets / "views" / f"{i}_{n}.png" for i, n in ((0, "front"), (2, "back"))}
    plan = make_plan("img2tex", prepare_job(assets / "figure.glb", views))
    assert plan.frames_with("views", Role.CONDITION) == (0, 2)
    assert plan.frames_with("views", Role.DENOISE) == (1, 3)


def test_geometry_maps_survive_the_pixel_codec(job):
    maps = job.view_maps(16, supersample=2)
    codec = PixelCodec(patch_size=2)
    latents = encode_geometry(maps, codec)
    decoded = codec.decode(latents.position, content="geometry", clamp=False)[0]
    torch.testing.assert_close(decoded.permute(1, 2, 3, 0), maps.position, atol=2e-6, rtol=0)


def test_points_of_a_latent_texel_are_those_of_its_covered_pixels(job):
    maps = job.view_maps(16, supersample=2)
    points = encode_geometry(maps, PixelCodec(patch_size=2)).points[0].unflatten(0, (2, 3))[0]
    covered = maps.mask.unflatten(1, (8, 2)).unflatten(3, (8, 2)).sum(dim=(2, 4))
    summed = maps.position.unflatten(1, (8, 2)).unflatten(3, (8, 2)).sum(dim=(2, 4))
    partly = (covered > 0) & (covered < 4)
    assert int(partly.sum()) > 20
    wanted = summed[partly] / covered[partly][:, None]
    # means of four pixels of positions below 1, in another order of sums
    torch.testing.assert_close(points.permute(1, 2, 3, 0)[partly], wanted, atol=1e-6, rtol=1e-5)


def test_references_are_black_where_they_show_nothing(job):
    reference = job.references[0]
    half = torch.zeros_like(reference.mask)
    half[..., : half.shape[-1] // 2] = 1.0
    white = replace(reference, rgb=torch.ones_like(reference.rgb), mask=half)
    frame = reference_frames([white], num_views=4, size=reference.rgb.shape[-1])[0]
    assert torch.equal(frame, half.expand_as(frame))


class TestModelFolders:
    def test_builtin_without_weights_says_so(self):
        model = load_model("seqtex-tiny")
        assert model.is_trained == (model.record.notes == ())
        assert model.config.summary

    def test_neither_name_nor_folder(self, tmp_path):
        with pytest.raises(WeightsError, match="seqtex-tiny"):
            load_model(tmp_path / "nothing")

    def test_folder_without_weights(self, tmp_path):
        (tmp_path / CONFIG_NAME).write_text(json.dumps(CONFIG.to_json()))
        with pytest.raises(WeightsError, match=WEIGHTS_NAME):
            load_model(tmp_path)

    def test_a_codec_with_weights_brings_them_along(self, tmp_path):
        vae = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1}
        vae |= {"temperal_downsample": [False], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
        codec = WanVAECodec(AutoencoderKLWan(**vae))
        sizes = {**CONFIG.backbone["config"], "in_channels": 4, "out_channels": 4}
        config = replace(
            CONFIG, backbone={**CONFIG.backbone, "config": sizes}, codec=codec.to_config()
        )
        (tmp_path / CONFIG_NAME).write_text(json.dumps(config.to_json()))
        save_model(build_transformer(config), tmp_path / WEIGHTS_NAME)
        with pytest.raises(WeightsError, match=CODEC_WEIGHTS_NAME):
            load_model(tmp_path)
        save_model(codec, tmp_path / CODEC_WEIGHTS_NAME)
        images = torch.rand(2, 3, 8, 8)
        loaded = load_model(tmp_path).codec
        assert torch.equal(loaded.encode(images), codec.encode(images))

    def test_weights_of_another_model(self, tmp_path):
        wider = replace(
            CONFIG,
            backbone={**CONFIG.backbone, "config": {**CONFIG.backbone["config"], "ffn_dim": 48}},
        )
        (tmp_path / CONFIG_NAME).write_text(json.dumps(wider.to_json()))
        save_model(build_transformer(CONFIG), tmp_path / WEIGHTS_NAME)
        with pytest.raises(WeightsError, match="ffn"):
            load_model(tmp_path)

    @pytest.mark.parametrize(
        "change", [{"format": 2}, {"surprise": 1}, {"decoupled": {"lora": 1}}, {"view_size": None}]
    )
    def test_configs_that_are_none(self, tmp_path, change):
        record = {**CONFIG.to_json(), **change}
        if change.get("view_size", 1) is None:
            del record["backbone"]
        (tmp_path / CONFIG_NAME).write_text(json.dumps(record))
        with pytest.raises(WeightsError):
            ModelConfig.read(tmp_path)

    def test_config_round_trip(self):
        record = json.loads(json.dumps(CONFIG.to_json()))
        assert ModelConfig.from_json(record, source="here") == CONFIG
