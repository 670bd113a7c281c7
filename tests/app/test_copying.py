"""Models with a copy head: what they are trained on, and that users get what they copy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import MODEL, make_run, tiny_config

from seqtex.models.config import WEIGHTS_NAME, ModelConfig
from seqtex.models.folder import CONFIG_NAME
from seqtex.models.load import build_transformer
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.projection_frame import project_frame
from seqtex.run_options import RunOptions
from seqtex.surface_points import surface_points
from seqtex.training.batch import GroupImages, TrainingBatch
from seqtex.training.config import ModelSection, read_config
from seqtex.training.encode import BatchEncoder
from seqtex.training.noise_levels import NoiseLevels
from seqtex.training.objective import FlowMatchingObjective, make_noisy
from seqtex.training.projection import with_projection
from seqtex.training.starting_point import model_config
from seqtex_backbones.codecs.pixel import PixelCodec
from seqtex_core.branch_data import StepCache
from seqtex_core.checkpoint import save_model
from seqtex_core.copy_head import CopyConfig, CopyHead
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.frames import TokenLayout
from seqtex_core.tasks import PROJECTION, TASKS, TEXTURE, VIEWS, img2tex_projected
from seqtex_core.transformer import SeqTexTransformer

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = ModelConfig(
    name="copying",
    summary="for tests",
    backbone={
        "name": "copying",
        "architecture": "wan",
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "ffn_dim": 32,
            "in_channels": 12,
            "out_channels": 12,
            "text_dim": 8,
            "freq_dim": 16,
            "text_length": 1,
            "patch_size": [1, 1, 1],
            "prediction": "clean",
        },
    },
    codec=PixelCodec(patch_size=2).to_config(),
    decoupled=DecoupledConfig(mv_train="full", copy=CopyConfig(heads=2)),
    task="img2tex_projected",
    texture_base="projection",
    view_size=32,
    uv_size=32,
    supersample=2,
    foreground=0,
)


def a_batch() -> TrainingBatch:
    """One row of six texels, the last off the chart; two objects."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.tensor([1.0, 1, 1, 1, 1, 0]).expand(2, 1, 1, 1, 6)
    texture = GroupImages(
        images=torch.rand(2, 1, 3, 1, 6, generator=draw) * mask,
        position=torch.randn(2, 1, 3, 1, 6, generator=draw) * mask,
        normal=torch.randn(2, 1, 3, 1, 6, generator=draw) * mask,
        mask=mask.clone(),
    )
    nothing = torch.zeros(2, 4, 3, 2, 2)
    views = GroupImages(
        images=nothing, position=nothing, normal=nothing, mask=torch.ones(2, 4, 1, 2, 2)
    )
    visible = torch.zeros(2, 4, 1, 6, dtype=torch.bool)
    visible[:, 0, 0, 1:3] = True
    return TrainingBatch(groups={VIEWS: views, TEXTURE: texture}, visible=visible)


def test_of_the_frame_what_is_seen_is_there_and_of_the_texture_what_is_not() -> None:
    plans = [img2tex_projected(condition_views=(view,)) for view in (0, 1)]
    made = with_projection(a_batch(), plans, "projection", copies=True)
    encoded = BatchEncoder(PixelCodec(patch_size=1), outside_weight=0.0)(
        made, [0, 1], [PROJECTION, TEXTURE]
    )
    coverage = {name: share[:, 0, 0, 0].tolist() for name, share in encoded.coverage.items()}
    assert coverage == {
        PROJECTION: [[0, 1, 1, 0, 0, 0], [0] * 6],
        TEXTURE: [[1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0]],
    }


def test_at_most_so_many_tokens_are_kept_others_for_every_sample() -> None:
    codec, batch = PixelCodec(patch_size=1), a_batch()
    whole = BatchEncoder(codec, outside_weight=0.0)(batch, range(2), [VIEWS, TEXTURE])

    def kept(number: int) -> Mapping[str, Tensor]:
        encoder = BatchEncoder(codec, outside_weight=0.0, tokens={TEXTURE: 2}, seed=3)
        return encoder(batch, [number, number + 1], [VIEWS, TEXTURE]).coverage

    drawn = {tuple(kept(n)[TEXTURE][0].flatten().tolist()) for n in range(20)}
    assert {sum(row) for row in drawn} == {2}
    assert 5 <= len(drawn) <= 10  # two of five
    assert all(row[5] == 0 for row in drawn)  # off the chart
    assert torch.equal(kept(4)[TEXTURE], kept(4)[TEXTURE])
    assert torch.equal(kept(4)[TEXTURE][1], kept(5)[TEXTURE][0])
    assert torch.equal(kept(4)[VIEWS], whole.coverage[VIEWS])


def test_points_are_means_over_what_is_covered() -> None:
    mask = torch.tensor([[1.0, 0, 1, 1], [1, 0, 1, 1]])[None, None, None]
    position = torch.arange(24.0).reshape(1, 1, 3, 2, 4) * mask
    normal = torch.ones(1, 1, 3, 2, 4) * mask
    points = surface_points(position, normal, mask, factor=2)
    assert points.shape == (1, 6, 1, 1, 2)
    left, right = points[0, :, 0, 0].T
    assert left[:3].tolist() == [2, 10, 18]  # of the two texels in the first column
    assert right[:3].tolist() == [4.5, 12.5, 20.5]
    torch.testing.assert_close(left[3:], torch.full((3,), 3**-0.5))
    empty = surface_points(position * 0, normal * 0, mask * 0, factor=2)
    assert not bool(empty.any())


def test_errors_count_over_what_there_is_to_change(tmp_path: Path) -> None:
    config = tiny_config()
    section = replace(config.model, overrides={**MODEL, "decoupled": {"copy": "none"}})
    run = make_run(replace(config, model=section), tmp_path)
    plan = TASKS.get("img2tex")(num_views=4, condition_views=(0,))

    def share(number: int, floor: float | None) -> tuple[float, float]:
        """The texture's share of the loss of one object, and its latents' mean square."""
        batch = run.source.batch([number], "img2tex")
        encoded = run.encoder(batch, [number], [VIEWS, TEXTURE])
        noisy = make_noisy(encoded, [plan], [number], NoiseLevels(weighting="uniform"), seed=0)
        objective = FlowMatchingObjective(run.transformer, relative_floor=floor)
        clean = encoded.clean[TEXTURE]
        mask = encoded.masks[TEXTURE].expand_as(clean)
        with torch.no_grad():
            lost = float(objective(noisy)[TEXTURE])
        return lost, float((clean.square() * mask).sum() / mask.sum())

    for number in (0, 1):
        plain, square = share(number, None)
        assert share(number, 0.5)[0] == pytest.approx(plain / (square + 0.5), rel=1e-5)


def test_a_config_with_a_copy_head_comes_back() -> None:
    record = json.loads(json.dumps(CONFIG.to_json()))
    assert ModelConfig.from_json(record, source="here") == CONFIG
    record["decoupled"]["copy"]["tails"] = 1
    with pytest.raises(WeightsError, match="tails"):
        ModelConfig.from_json(record, source="here")


def test_training_takes_the_copy_head_of_its_base_away() -> None:
    def trained(copy: Any) -> ModelConfig:
        overrides = {"decoupled": {"copy": copy}}
        config = replace(tiny_config(), model=ModelSection(overrides=overrides))
        return model_config(config)

    assert trained("none").decoupled.copy is None
    assert trained({"heads": 5}).decoupled.copy == CopyConfig(heads=5)


def test_users_get_what_the_head_copies(assets: Path, tmp_path: Path) -> None:
    """Between a head that only copies and one that keeps the smooth fill lies what is unseen."""

    def pipeline(name: str, copies: float) -> SeqTexPipeline:
        transformer = build_transformer(CONFIG)
        head = transformer.copy_head
        assert isinstance(head, CopyHead)
        with torch.no_grad():
            head.gate[2].weight.zero_()
            head.gate[2].bias.copy_(torch.tensor([copies, copies, 0.0]))
        folder = tmp_path / name
        folder.mkdir()
        (folder / CONFIG_NAME).write_text(json.dumps(CONFIG.to_json()))
        save_model(transformer, folder / WEIGHTS_NAME)
        return SeqTexPipeline.from_pretrained(folder, device="cpu")

    job = prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})
    copying, keeping = pipeline("copying", 50.0), pipeline("keeping", -50.0)
    once = RunOptions(steps=1)
    result = copying(job, options=once)
    made, dense = result.texture, copying(job, options=replace(once, foreground=False)).texture
    kept = keeping(job, options=once).texture
    maps = job.uv_maps(32)
    seen = project_frame(job, maps).seen
    unseen = maps.hit[0] & ~seen
    assert min(int(seen.sum()), int(unseen.sum())) > 30
    assert torch.equal(made[:, seen], kept[:, seen])
    assert float((made - kept)[:, unseen].abs().mean()) > 0.02
    computed = float(torch.nn.functional.max_pool2d(unseen[None].float(), 2).mean())
    words = result.manifest.choices["tokens"]
    assert "where no reference shows it (" in words
    assert f"{computed:.0%} of the texture" in words
    # the rows take no part in this head: neither noise nor which tokens are computed matters
    noise = copying(job, seed=1, options=once).texture
    for other in (dense, noise):
        torch.testing.assert_close(other[:, unseen], made[:, unseen], rtol=0, atol=1e-4)
    told = SeqTexPipeline.from_pretrained(tmp_path / "copying", device="cpu", memory=8)
    assert torch.equal(told(job, options=once).texture, made)


def test_what_a_run_knows_is_what_is_seen_and_it_asks_for_the_rest(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG.to_json()))
    save_model(build_transformer(CONFIG), folder / WEIGHTS_NAME)
    pipeline = SeqTexPipeline.from_pretrained(folder, device="cpu")
    job = prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})
    caches: list[StepCache] = []
    prepare = SeqTexTransformer.prepare
    monkeypatch.setattr(
        SeqTexTransformer,
        "prepare",
        lambda self, *args, **kw: caches.append(prepare(self, *args, **kw)) or caches[-1],
    )
    pipeline(job, options=RunOptions(steps=1))
    maps = job.uv_maps(32)
    seen, there = project_frame(job, maps).seen, maps.hit[0]

    def texels(covered: Tensor) -> list[int]:
        """Numbers of the latent texels, of two by two, that touch what is covered."""
        blocks = covered.view(16, 2, 16, 2).permute(0, 2, 1, 3).flatten(2).any(-1)
        return blocks.flatten().nonzero().flatten().tolist()

    assert len(caches) == 1
    assert caches[0].copies is not None
    layout, place = caches[0].layout, caches[0].copies.places[0]
    assert isinstance(layout, TokenLayout)
    assert layout.keep[PROJECTION].tolist() == texels(seen & there)
    assert place.source_texels.tolist() == texels(seen & there)
    assert place.target_texels.tolist() == texels(there & ~seen)
    assert 0 < len(place.source_texels) < len(place.target_texels) < 256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": {"relative_floor": 0}}, "relative_floor"),
        ({"run": {"tokens": {"textur": 5}}}, "textur"),
        ({"run": {"tokens": {"texture": 0}}}, "texture"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_config(CONFIGS / "seqtex-tiny.toml", changes)


def test_tokens_are_left_out_of_models_of_foreground_tokens_only(tmp_path: Path) -> None:
    config = tiny_config()
    section = replace(config.model, overrides={**MODEL, "foreground": "none"})
    run = replace(config.run, tokens={"texture": 9})
    with pytest.raises(UsageError, match="tokens"):
        make_run(replace(config, model=section, run=run), tmp_path)


def test_a_copy_head_needs_something_to_measure_from() -> None:
    with pytest.raises(UsageError, match="texture_base"):
        replace(CONFIG, texture_base="none")
