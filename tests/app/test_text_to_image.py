"""Image models from text: tiny random SDXL and FLUX pipelines, loaded by path and run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from text_to_image_models import build_image_models

from seqtex.prepare import PreparedJob, prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.text_to_image import (
    REFERENCE_GENERATORS,
    ControlImages,
    ImageDefaults,
    ImageModelSpec,
    ImageSettings,
    ReferenceGenerator,
    draw_control_images,
    full_prompt,
    load_generator,
    make_text_reference,
    save_text_reference,
)
from seqtex.text_to_image.registry import choose_generator
from seqtex_core.errors import InputError, SeqTexError, UnsupportedError, UsageError, WeightsError

SIZE = 64
ONE_STEP = ImageSettings(prompt="a red fox", steps=1)
MODELS = {
    "sdxl-union": ("sdxl", ["sdxl-union"]),
    "sdxl-depth": ("sdxl", ["sdxl-depth"]),
    "sdxl-both": ("sdxl", ["sdxl-depth", "sdxl-normal"]),
    "flux-depth-net": ("flux", ["flux-net-depth"]),
    "flux-both": ("flux", ["flux-net-depth", "flux-net-normal"]),
    "flux-union": ("flux", ["flux-union"]),
    "flux-depth": ("flux-depth", []),
}
READS_NORMALS = ("sdxl-union", "sdxl-both", "flux-both")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_models")
    build_image_models(folder)
    return folder


@pytest.fixture(scope="module")
def job(assets: Path) -> PreparedJob:
    return prepare_job(assets / "figure.glb", options=PrepareOptions(uv="as_is", device="cpu"))


@pytest.fixture(scope="module")
def controls(job: PreparedJob) -> ControlImages:
    return draw_control_images(job, "front", size=SIZE)


def spec_of(models: Path, model: str, nets: list[str], **options: Any) -> ImageModelSpec:
    named = [
        f"{kind}{sign}{models / name}" for kind, sign, name in (n.rpartition("=") for n in nets)
    ]
    return ImageModelSpec.of(str(models / model), named, device="cpu", **options)


@pytest.mark.parametrize("which", MODELS)
def test_every_model_draws_what_seed_and_controls_say(
    models: Path, controls: ControlImages, which: str
) -> None:
    generator = load_generator(spec_of(models, *MODELS[which]))
    seen: list[tuple[int, int]] = []
    image = generator(ONE_STEP, controls, on_step=lambda done, total: seen.append((done, total)))
    assert tuple(image.shape) == (3, SIZE, SIZE)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert seen == [(1, 1)]
    assert torch.equal(generator(ONE_STEP, controls), image)
    assert not torch.equal(generator(replace(ONE_STEP, seed=1), controls), image)
    assert not torch.equal(generator(replace(ONE_STEP, prompt="z"), controls), image)
    flipped = replace(controls, depth=controls.depth.flip(-1))
    assert not torch.equal(generator(ONE_STEP, flipped), image)
    turned = generator(ONE_STEP, replace(controls, normal=controls.normal.flip(-1)))
    assert torch.equal(turned, image) == (which not in READS_NORMALS)
    expected = ("depth", "normal") if which in READS_NORMALS else ("depth",)
    assert generator.controls == expected


def test_unions_are_told_which_control_is_which(models: Path, controls: ControlImages) -> None:
    sdxl: Any = load_generator(spec_of(models, *MODELS["sdxl-union"]))
    # The modes of xinsir/controlnet-union-sdxl-1.0 and of Shakker-Labs' FLUX unions.
    assert sdxl.arguments(ONE_STEP, controls)["control_mode"] == [1, 4]
    only: Any = load_generator(spec_of(models, "sdxl", ["normal=sdxl-union"]))
    assert only.arguments(ONE_STEP, controls)["control_mode"] == [4]
    flux: Any = load_generator(spec_of(models, *MODELS["flux-union"]))
    assert flux.arguments(ONE_STEP, controls)["control_mode"] == 2


def test_negative_prompt_and_control_scale_reach_the_model(
    models: Path, controls: ControlImages
) -> None:
    generator = load_generator(spec_of(models, *MODELS["sdxl-both"]))
    image = generator(ONE_STEP, controls)
    for other in ({"negative_prompt": "blue"}, {"control_scale": 0.1}, {"guidance": 2.0}):
        assert not torch.equal(generator(replace(ONE_STEP, **other), controls), image), other


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        ("flux-depth", {"negative_prompt": "blue"}, "negative prompt.*classifier-free"),
        ("flux-depth", {"control_scale": 0.5}, "control scale.*no such setting"),
        ("sdxl-depth", {"negative_prompt": "blue", "guidance": 1.0}, "guidance above 1"),
        ("sdxl-depth", {"prompt": "x" * 200}, "text: expected at most 160 tokens.*got 202"),
    ],
)
def test_settings_that_a_model_does_not_have_are_refused(
    models: Path, controls: ControlImages, which: str, change: dict[str, Any], words: str
) -> None:
    generator = load_generator(spec_of(models, *MODELS[which]))
    with pytest.raises(UsageError, match=words):
        generator(replace(ONE_STEP, **change), controls)


def test_a_broken_image_is_no_image(models: Path, controls: ControlImages) -> None:
    generator: Any = load_generator(spec_of(models, *MODELS["flux-depth"]))
    for weight in generator.pipeline.vae.decoder.parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(UnsupportedError, match="float32: expected a finite image"):
        generator(ONE_STEP, controls)


@pytest.mark.parametrize(("which", "size"), [("sdxl-depth", 60), ("flux-depth", 72)])
def test_sizes_are_checked(models: Path, job: PreparedJob, which: str, size: int) -> None:
    generator = load_generator(spec_of(models, *MODELS[which]))
    drawn = draw_control_images(job, "front", size=size)
    with pytest.raises(UsageError, match=rf"multiple of {generator.size_multiple}.*got {size}"):
        generator(ONE_STEP, drawn)


@pytest.mark.parametrize(
    ("model", "nets", "kind", "words"),
    [
        ("sdxl", [], UsageError, "a ControlNet for SDXL: without one"),
        ("flux", [], UsageError, "a ControlNet for FLUX: without one"),
        ("sdxl", ["flux-net-depth"], UsageError, "for SDXL .*got a FluxControlNetModel"),
        ("flux", ["sdxl-depth"], UsageError, "for FLUX .*got a ControlNetModel"),
        ("sdxl", ["sd15-depth"], WeightsError, "cross_attention_dim 32.*got 24"),
        ("sdxl", ["sdxl-union", "sdxl-depth"], UsageError, "1 union of 2"),
        ("sdxl", ["depth=sdxl-depth", "depth=sdxl-normal"], UsageError, "got depth, depth"),
        ("sdxl", ["unnamed"], UsageError, "depth=ID or normal=ID"),
        ("flux", ["normal=flux-union"], UsageError, "no mode for normals"),
        ("flux-depth", ["flux-net-depth"], UsageError, "reads the depth itself"),
        ("sd3", ["sdxl-depth"], WeightsError, "got a StableDiffusion3Pipeline"),
        ("sdxl-depth", ["sdxl-depth"], WeightsError, "model_index.json, got no such file"),
        ("sdxl", ["sdxl"], WeightsError, "config.json, got no such file"),
        ("nowhere", ["sdxl-depth"], WeightsError, "got no such folder"),
    ],
)
def test_models_that_do_not_go_together_are_refused(
    models: Path, model: str, nets: list[str], kind: type[SeqTexError], words: str
) -> None:
    (models / "sd3").mkdir(exist_ok=True)
    index = {"_class_name": "StableDiffusion3Pipeline"}
    (models / "sd3" / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(models / "sdxl-depth", models / "unnamed", dirs_exist_ok=True)
    with pytest.raises(kind, match=words):
        load_generator(spec_of(models, model, nets))


@pytest.mark.parametrize("damage", ["pickle", "cut"])
def test_only_whole_safetensors_are_read(models: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(models / "sdxl", tmp_path / "sdxl")
    shutil.copytree(models / "sdxl-depth", tmp_path / "net-depth")
    weights = tmp_path / "net-depth" / "diffusion_pytorch_model.safetensors"
    if damage == "pickle":
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="net-depth: expected a ControlNetModel in safetensors"):
        load_generator(spec_of(tmp_path, "sdxl", ["net-depth"]))


def test_hub_ids_need_no_network_with_local_files_only() -> None:
    spec = ImageModelSpec.of("nobody/has-this-model", ["depth=no/net"], local_files_only=True)
    with pytest.raises(WeightsError, match=r"nobody/has-this-model.*from the hub"):
        choose_generator(spec)


def test_offloading_needs_an_accelerator(models: Path) -> None:
    with pytest.raises(UsageError, match="none on the CPU"):
        load_generator(spec_of(models, "flux-depth", [], offload="model"))


class Painter:
    """A generator of our own: a dark picture in the shape of the control, on a plain wall."""

    name = "painter"
    controls = ("depth",)
    size_multiple = 1
    defaults = ImageDefaults(size=SIZE, steps=4, guidance=1.0, control_scale=None)

    def __init__(self, shift: int = 0, noise: bool = False) -> None:
        self.shift, self.noise = shift, noise

    def __call__(self, settings: ImageSettings, controls: ControlImages, **kw: Any) -> Tensor:
        if self.noise:
            return torch.rand(3, controls.size, controls.size)
        covered = (controls.mask > 0.5).float().roll(self.shift, dims=-1)
        return (0.95 - 0.8 * covered).expand(3, -1, -1)

    def record(self) -> Mapping[str, Any]:
        return {"generator": self.name}


def test_alpha_is_the_meshs_and_the_pictures_own_shape_is_compared(job: PreparedJob) -> None:
    painters: list[ReferenceGenerator] = [Painter(), Painter(shift=12), Painter(noise=True)]
    made = [make_text_reference(job, one, ImageSettings(prompt="a fox")) for one in painters]
    mask = draw_control_images(job, "front", size=SIZE).mask
    assert all(torch.equal(one.rgba[3:], mask) for one in made)
    fitting, shifted, noisy = (one.overlap for one in made)
    # A hard edge against an antialiased one: half a pixel of difference along the outline.
    assert fitting is not None
    assert fitting > 0.9
    assert shifted is not None
    assert shifted < 0.7
    assert noisy is None
    made[0].check_overlap(0.8)
    made[2].check_overlap(0.8)
    with pytest.raises(InputError, match=r"IoU >= 0.80.*--image kept\.png"):
        made[1].check_overlap(0.8, saved=Path("kept.png"))


def test_the_record_replays_the_picture(job: PreparedJob, tmp_path: Path) -> None:
    settings = ImageSettings(prompt=full_prompt("a fox.", "left"), seed=7)
    made = make_text_reference(job, Painter(), settings, view="left", normal_convention="opengl")
    save_text_reference(made, tmp_path / "fox.png", mesh="figure.glb")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "fox.png", "fox_depth.png", "fox_normal.png", "fox_mask.png", "fox.png.seqtex.json",
    }  # fmt: skip
    record = json.loads((tmp_path / "fox.png.seqtex.json").read_text())
    assert record["mesh"] == "figure.glb"
    told = record["text_to_image"]
    assert told["prompt"].startswith("a fox, seen from its left side, ")
    assert {key: told[key] for key in ("generator", "view", "seed", "size", "steps")} == {
        "generator": "painter", "view": "left", "seed": 7, "size": SIZE, "steps": 4,
    }  # fmt: skip
    assert told["normal_convention"] == "opengl"
    assert "diffusers" in record["versions"]


def test_other_generators_can_be_registered(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setitem(REFERENCE_GENERATORS._entries, "painter", lambda spec: Painter())
    spec = spec_of(models, "sdxl", [], generator="painter")
    assert load_generator(spec).name == "painter"
    with pytest.raises(UsageError, match="Did you mean 'painter'"):
        load_generator(replace(spec, generator="paintre"))
