"""Foreground tokens: which they are, what leaving the others out changes, training with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import MODEL, make_run, tiny_config

from seqtex.foreground import Foreground, latent_coverage
from seqtex.models.config import WEIGHTS_NAME, ModelConfig
from seqtex.models.folder import CONFIG_NAME
from seqtex.models.load import build_transformer
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import PreparedJob, prepare_job
from seqtex.run_options import RunOptions
from seqtex.training import trainer
from seqtex.training.batch_sampling import sample_batch
from seqtex.training.build import first_transformer
from seqtex.training.noise_levels import NoiseLevels
from seqtex.training.objective import FlowMatchingObjective, make_noisy
from seqtex.training.run import Run
from seqtex.training.starting_point import starting_point
from seqtex_backbones.codecs.pixel import PixelCodec
from seqtex_core.checkpoint import save_model
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.packed_layout import PackedLayout
from seqtex_core.tasks import TASKS

CONFIG = ModelConfig(
    name="minute",
    summary="for tests",
    backbone={
        "name": "minute",
        "architecture": "wan",
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "num_layers": 1,
            "ffn_dim": 96,
            "in_channels": 12,
            "out_channels": 12,
            "text_dim": 8,
            "freq_dim": 32,
            "text_length": 1,
            "patch_size": [1, 2, 2],
        },
    },
    codec=PixelCodec(patch_size=2).to_config(),
    view_size=32,
    uv_size=32,
    supersample=2,
)
TOKEN = 4
"""Pixels of a token of that model, in either direction."""


@pytest.fixture(scope="module")
def job(assets: Path) -> PreparedJob:
    return prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SeqTexPipeline]:
    """The model of these tests, with a margin of its own or without."""

    def load(foreground: int | None = None) -> SeqTexPipeline:
        folder = tmp_path_factory.mktemp("model")
        config = replace(CONFIG, foreground=foreground)
        (folder / CONFIG_NAME).write_text(json.dumps(config.to_json()))
        save_model(build_transformer(config), folder / WEIGHTS_NAME)
        return SeqTexPipeline.from_pretrained(folder, device="cpu")

    return load


# --- which tokens ------------------------------------------------------------------------------


@given(st.integers(0, 2), st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 1)]), st.data())
def test_tokens_are_those_within_the_margin_of_a_covered_texel(
    margin: int, patch: tuple[int, int, int], data: st.DataObject
) -> None:
    texels = st.tuples(*(st.integers(0, size - 1) for size in (2, 6, 4)))
    covered = data.draw(st.lists(texels, max_size=4))
    share = torch.zeros(1, 1, 2, 6, 4)
    for frame, row, column in covered:
        share[0, 0, frame, row, column] = 1e-3
    found = Foreground.of({"views": share}, patch=patch, margin=margin)
    tokens = found.tokens["views"][0]
    assert tokens.shape == tuple(size // p for size, p in zip((2, 6, 4), patch, strict=True))
    for place in torch.cartesian_prod(*(torch.arange(size) for size in tokens.shape)):
        frame, row, column = place.tolist()
        near = any(
            f // patch[0] == frame
            and max(abs(r // patch[1] - row), abs(c // patch[2] - column)) <= margin
            for f, r, c in covered
        )
        assert bool(tokens[frame, row, column]) == near
    mask = found.latent_mask("views")
    assert mask.shape == share.shape
    assert bool(mask[share > 0].all())
    assert int(mask.sum()) == int(tokens.sum()) * patch[0] * patch[1] * patch[2]


def test_one_sample_has_a_layout_of_its_own_and_several_are_packed() -> None:
    grid = Grid(frames=1, height=2, width=2)
    dense = TokenLayout.of([FrameGroup(name="views", stream="mv", grid=grid)])
    share = torch.zeros(2, 1, 1, 2, 2)
    share[0, ..., 0, 1] = share[1, ..., 1, :] = 1.0

    def of(rows: slice) -> Any:
        return Foreground.of({"views": share[rows]}, patch=(1, 1, 1), margin=0).layout(dense)

    one, both = of(slice(1)), of(slice(2))
    assert isinstance(one, TokenLayout)
    assert one.keep["views"].tolist() == [1]
    assert isinstance(both, PackedLayout)
    assert [s.keep["views"].tolist() for s in both.samples] == [[1], [2, 3]]
    share[1] = 0.0
    with pytest.raises(UsageError, match=r"foreground.*--dense"):
        of(slice(2))
    with pytest.raises(UsageError, match="margin of 0 or more"):
        Foreground.of({"views": share}, patch=(1, 1, 1), margin=-1)


# --- inference ---------------------------------------------------------------------------------


def test_a_run_of_foreground_tokens(pipeline: Callable[..., Any], job: PreparedJob) -> None:
    """Black where no token was, the reference as given, the tokens told."""
    loaded = pipeline()
    dense = loaded(job, options=RunOptions(steps=2))
    made = loaded(job, options=RunOptions(steps=2, foreground=True))
    maps = made.maps.views
    tokens = torch.nn.functional.max_pool2d(maps.mask[:, None].ceil(), TOKEN)
    dropped = (torch.nn.functional.interpolate(tokens, scale_factor=TOKEN) == 0).expand(
        -1, 3, -1, -1
    )
    assert 0.2 < float(dropped.float().mean()) < 0.9
    # Half a rounding of the pixel transform, see test_pipeline.
    assert float(made.views[1:][dropped[1:]].abs().max()) < 2e-6
    assert float(dense.views[1:][dropped[1:]].abs().max()) > 0.1, "dense: an untrained background"
    assert torch.equal(made.views[0], dense.views[0])
    assert not torch.equal(made.texture, dense.texture)
    assert made.manifest.settings["foreground"] == 0
    assert dense.manifest.settings["foreground"] is None
    assert "tokens" not in dense.manifest.choices
    told = made.manifest.choices["tokens"]
    assert told.startswith("those that touch the surface (")
    assert f"{float(tokens.mean()):.0%} of the views" in told
    assert told.endswith("trained with background")


def test_a_model_trained_on_foreground_runs_so(
    pipeline: Callable[..., Any], job: PreparedJob
) -> None:
    loaded = pipeline(1)
    runs = (RunOptions(steps=1, foreground=asked) for asked in (None, True, False))
    own, asked, dense = (loaded(job, options=options) for options in runs)
    assert torch.equal(own.texture, asked.texture)
    assert own.manifest.settings["foreground"] == 1
    assert own.manifest.choices["tokens"].endswith("of the texture)")
    assert dense.manifest.settings["foreground"] is None
    assert dense.manifest.choices["tokens"].endswith("trained without background")


def test_nothing_changes_where_everything_is_covered(
    pipeline: Callable[..., Any], job: PreparedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = pipeline()
    full = lambda maps, codec: torch.ones_like(latent_coverage(maps, codec))  # noqa: E731
    monkeypatch.setattr("seqtex.conditions.latent_coverage", full)
    runs = (RunOptions(steps=2, foreground=asked) for asked in (None, True))
    dense, made = (loaded(job, options=options) for options in runs)
    assert torch.equal(made.texture, dense.texture)
    assert torch.equal(made.views, dense.views)


def test_the_command_takes_it_with_a_model_only(seqtex: Callable[..., Any], work: Path) -> None:
    picture = str(work / "views" / "0_front.png")
    base = ["texture", str(work / "figure.glb"), "--image", picture]
    refused = seqtex(*base, "--method", "project", "--dense")
    assert refused.code == 2
    assert "--foreground" in refused.err
    done = seqtex(*base, "--model", "seqtex-tiny", "--dense", "--texture-size", "128")
    assert done.code == 0, done.err
    assert "trained without background" in done.err


# --- training ----------------------------------------------------------------------------------


def foreground_run(folder: Path, **changes: Any) -> Run:
    config = tiny_config(steps=4)
    sizes = {**MODEL["backbone"]["config"], "in_channels": 12, "out_channels": 12}
    overrides = {
        "view_size": 32,
        "uv_size": 16,
        "foreground": 0,
        "task": "img2tex",
        "texture_base": "none",
        "codec": {"patch_size": 2},
        "decoupled": {"copy": "none"},
        "backbone": {"config": {**sizes, "patch_size": [1, 2, 2]}},
    }
    changed = replace(config, model=replace(config.model, overrides=overrides), **changes)
    return make_run(changed, folder)


def test_the_loss_of_a_batch_is_the_mean_of_its_samples_and_reads_no_background(
    tmp_path: Path,
) -> None:
    run = foreground_run(tmp_path)
    plans = [TASKS.get("img2tex")(num_views=4, condition_views=(0,))] * 3
    encoded = run.encoder(run.source.batch([0, 1, 2], "img2tex"), [0, 1, 2], ["views", "texture"])
    for row in range(3):  # the sphere covers as much of every sample
        encoded.coverage["texture"][row, ..., 4 + row :] = 0
        encoded.coverage["views"][row, :, row] = 0
    shown = encoded.foreground(["views", "texture"], run.transformer, 0)
    assert shown is not None
    assert 0.1 < shown.share("views") < 0.9
    counts = {int(rows.sum()) for rows in shown.tokens["texture"]}
    assert len(counts) > 1, "samples of different lengths"
    objective = FlowMatchingObjective(run.transformer, uv_weight=2.0, foreground=0)
    noisy = make_noisy(encoded, plans, [0, 1, 2], NoiseLevels(), seed=5)

    def loss(batch: Any) -> tuple[float, Tensor]:
        made = objective(batch)
        run.transformer.zero_grad()
        made["total"].backward()
        head = run.transformer.shells["uv"].proj_out.weight.grad
        return float(made["total"].detach()), head.clone()

    total, gradient = loss(noisy)
    outside = {n: ~shown.latent_mask(n).expand_as(x) for n, x in noisy.sample.latents.items()}
    changed = {n: torch.where(outside[n], 9.0, x) for n, x in noisy.sample.latents.items()}
    again = replace(noisy, sample=replace(noisy.sample, latents=changed))
    # Kernels may split unaligned sums elsewhere: a rounding.
    assert loss(again)[0] == pytest.approx(total, rel=1e-6)
    alone = [loss(rows_of(noisy, slice(i, i + 1))) for i in range(3)]
    # Means over a few hundred squares in fp32, in another order.
    assert total == pytest.approx(sum(part for part, _ in alone) / 3, rel=2e-6)
    mean = torch.stack([part for _, part in alone]).mean(dim=0)
    torch.testing.assert_close(gradient, mean, atol=1e-5 * float(mean.abs().max()), rtol=0)


def rows_of(batch: Any, rows: slice) -> Any:
    """Some samples of a noisy batch."""

    def cut(named: dict[str, Any]) -> dict[str, Any]:
        return {name: x[rows] for name, x in named.items()}

    sample, encoded = batch.sample, batch.encoded
    geometry = {name: g.each(lambda x: x[rows]) for name, g in encoded.geometry.items()}
    return replace(
        batch,
        sample=replace(
            sample,
            latents=cut(sample.latents),
            sigmas=cut(sample.sigmas),
            target=cut(sample.target),
            frame_weights=cut(sample.frame_weights),
        ),
        levels=replace(
            batch.levels, sigma=batch.levels.sigma[rows], weight=batch.levels.weight[rows]
        ),
        encoded=replace(
            encoded,
            clean=cut(encoded.clean),
            geometry=geometry,
            masks=cut(encoded.masks),
            coverage=cut(encoded.coverage),
        ),
    )


def test_a_model_trains_on_foreground_and_is_sampled_so(tmp_path: Path) -> None:
    run = foreground_run(tmp_path)
    result = trainer.train(run, resume=False, say=lambda text: None)
    assert result.model is not None
    config = ModelConfig.read(result.model)
    assert config.foreground == 0
    model = SeqTexPipeline.from_pretrained(result.model, device="cpu").model
    batch = run.source.preview(2)
    made = sample_batch(model, batch, [0, 1], steps=2, seed=0)["views"]
    mask = batch.groups["views"].mask.flatten(0, 1)
    tokens = torch.nn.functional.max_pool2d(mask, TOKEN)
    dropped = torch.nn.functional.interpolate(tokens, scale_factor=TOKEN) == 0
    assert 0.1 < float(dropped.float().mean()) < 0.9
    black = made.flatten(0, 1).masked_select(dropped.expand(-1, 3, -1, -1))
    assert float(black.abs().max()) < 2e-6
    assert float(made.abs().max()) > 0.1


def test_compiled_blocks_would_be_compiled_for_every_batch() -> None:
    config = tiny_config(compile=True)  # its base is trained on foreground
    with pytest.raises(UsageError, match="compile"):
        first_transformer(config, starting_point(config))
