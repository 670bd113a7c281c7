"""Arguments that make no sense: every public function names them instead of failing inside torch.

The worst are those that would have been taken: broadcast over the batch, or dropped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import seqtex_core as core
from seqtex_core.attention.geo_attention import geo_attention
from seqtex_core.errors import UsageError
from seqtex_core.lora import inject_lora
from seqtex_core.modulation import modulate
from seqtex_core.query_key import qk_prep_reference
from seqtex_core.rope import rope_for_grid

NAN = float("nan")


def latents(*shape: int) -> Tensor:
    return torch.zeros(shape)


def rope_of(rows: int) -> core.Rope:
    return core.Rope(cos=torch.ones(rows, 4), sin=torch.zeros(rows, 4))


def rope_with(table: Tensor) -> core.Rope:
    return core.Rope(cos=table, sin=table)


def training_sample() -> core.NoisySample:
    clean = {"views": latents(2, 1, 4, 2, 2), "texture": latents(2, 1, 1, 4, 4)}
    return core.img2tex().training_sample(
        clean, torch.tensor([0.5, 0.7]), generator=torch.Generator().manual_seed(0)
    )


def loss_with(**given: object) -> object:
    sample = training_sample()
    return core.flow_matching_loss(sample.target, sample, **given)  # type: ignore[arg-type]


def sample_with(answer: object, **given: object) -> object:
    known = core.KnownLatents(shapes={"views": (1, 1, 4, 2, 2)}, **given)  # type: ignore[arg-type]
    return core.sample(
        lambda x, s: answer,  # type: ignore[arg-type, return-value]
        core.geo2mv(),
        known,
        sigmas=[1.0, 0.5, 0.0],
        generator=torch.Generator().manual_seed(0),
    )


def sample_by(sampler: object, sigmas: object = (1.0, 0.0)) -> object:
    return core.sample(
        lambda x, s: x,
        core.geo2mv(),
        core.KnownLatents(shapes={"views": (1, 1, 4, 2, 2)}),
        sigmas=sigmas,  # type: ignore[arg-type]
        sampler=sampler,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )


def noised(
    clean: object = None, *, texture: object = None, sigma: Tensor | None = None
) -> core.NoisySample:
    views = latents(2, 1, 4, 2, 2)
    given = {"views": views, "texture": latents(2, 1, 1, 4, 4) if texture is None else texture}
    return core.img2tex().training_sample(
        given if clean is None else clean,  # type: ignore[arg-type]
        torch.tensor([0.5, 0.7]) if sigma is None else sigma,
        generator=torch.Generator().manual_seed(0),
    )


X, Y = latents(2, 1, 3, 4, 4), latents(2, 1, 3, 4, 5)
Q = latents(1, 4, 2, 8)
LAYER = core.GeoAttention(core.GeoAttentionConfig(dim=16, num_heads=2))
GROUP = core.FrameGroup(name="a", stream="mv", grid=core.Grid(frames=2, height=2, width=2))
LAYOUT = core.TokenLayout.of([GROUP])
ROWS = LAYOUT.streams["mv"]
CASES: dict[str, tuple[str, Callable[[], object]]] = {
    "loss weight of another batch": ("weight", lambda: loss_with(weight=torch.ones(3))),
    "mask of no group": ("masks", lambda: loss_with(masks={"viws": torch.ones(1, 1, 4, 1, 1)})),
    "mask of another size": (
        "masks",
        lambda: loss_with(masks={"views": torch.ones(1, 1, 3, 1, 1)}),
    ),
    "noise of another shape": ("noise", lambda: core.add_noise(X, Y, 0.5)),
    "velocity of another shape": ("velocity", lambda: core.velocity_to_clean(X, Y, 0.5)),
    "clean of another shape": ("clean", lambda: core.clean_to_velocity(X, Y, 0.5)),
    "sigma of another batch": ("sigma", lambda: core.add_noise(X, X, torch.rand(3))),
    "sigma of other frames": ("sigma", lambda: core.add_noise(X, X, torch.rand(2, 4))),
    "nan shift": ("shift", lambda: core.inference_sigmas(3, NAN)),
    "half a step": ("steps", lambda: core.inference_sigmas(2.5)),  # type: ignore[arg-type]
    "empty table": ("sigmas", lambda: core.bell_weights(torch.empty(0))),
    "weighting": ("weighting", lambda: core.TrainingSchedule(weighting="x")),  # type: ignore[arg-type]
    "no levels": ("TrainingSchedule", lambda: core.TrainingSchedule(num_levels=0)),
    "no generator": (
        "generator",
        lambda: core.TrainingSchedule().sample_sigmas(2, generator=None),  # type: ignore[arg-type]
    ),
    "role by name": ("role", lambda: core.FrameState(role="denoise")),  # type: ignore[arg-type]
    "one view": ("condition_views", lambda: core.img2tex(condition_views=1)),  # type: ignore[arg-type]
    "stream": (
        "stream",
        lambda: core.FrameGroup(
            name="a",
            stream="both",  # type: ignore[arg-type]
            grid=core.Grid(frames=1, height=1, width=1),
        ),
    ),
    "half a row": ("grid", lambda: core.Grid(frames=1, height=1.5, width=2)),  # type: ignore[arg-type]
    "no mapping": ("velocity", lambda: sample_with(torch.zeros(2))),
    "integer latents": ("dtype", lambda: sample_with({}, dtype=torch.int64)),
    "rising levels": ("sigmas", lambda: core.EulerSampler([0.5, 1.0, 0.0])),
    "no such step": ("step", lambda: core.EulerSampler([1.0, 0.0]).step(X, X, 1)),
    "plain attention": ("k", lambda: core.attention_reference(Q, latents(1, 4, 3, 8), Q)),
    "attention of rows": ("q", lambda: core.choose_attention()(X[0, 0], X, X)),
    "mask elsewhere": (
        "mask",
        lambda: core.choose_attention()(Q, Q, Q, mask=torch.ones(1, 1, 4, 4, device="meta")),
    ),
    "no device": ("device", lambda: core.list_attention("gpu")),
    "order of the definition": ("geometry_order", lambda: geometry_reference("x")),
    "order of the preparation": (
        "geometry_order",
        lambda: qk_prep_reference(Q.flatten(2), num_heads=2, geometry_order="x"),  # type: ignore[arg-type]
    ),
    "integer geometry": ("geometry", lambda: placed(torch.ones(1, 4, 2, 8).long())),
    "geometry elsewhere": ("geometry", lambda: placed(torch.ones(1, 4, 2, 8, device="meta"))),
    "placement of no context": (
        "context_placement",
        lambda: LAYER(latents(1, 4, 16), context_placement=core.Placement(rope=rope_of(4))),
    ),
    "negative head dim": (
        "GeoAttentionConfig",
        lambda: core.GeoAttentionConfig(dim=16, num_heads=2, head_dim=-1),
    ),
    "integer table": (
        "rope",
        lambda: core.Rope(cos=torch.ones(2, 3).long(), sin=torch.ones(2, 3).long()),
    ),
    "half table": ("rope", lambda: core.Rope(cos=Q[0, 0].half(), sin=Q[0, 0].half())),
    "table on two devices": ("rope", lambda: core.Rope(cos=Q[0, 0], sin=Q[0, 0].to("meta"))),
    "two axes": ("axis_dims", lambda: core.RopeSpec(axis_dims=(4, 4))),  # type: ignore[arg-type]
    "theta": ("theta", lambda: core.RopeSpec(axis_dims=(4, 4, 4), theta=0)),
    "pairing": ("pairing", lambda: core.RopeSpec(axis_dims=(4, 4, 4), pairing="x")),  # type: ignore[arg-type]
    "frame positions": (
        "frame_positions",
        lambda: rope_for_grid(
            core.Grid(frames=2, height=1, width=1),
            core.RopeSpec(axis_dims=(4, 4, 4)),
            frame_positions=torch.arange(3),
        ),
    ),
    "rows of another stream": (
        "hidden_states",
        lambda: modulate(latents(1, 4, 8), latents(1, 2, 8), latents(1, 2, 8), ROWS),
    ),
    "level as a number": (
        "sigma",
        lambda: core.img2tex().sigmas(0.5),  # type: ignore[arg-type]
    ),
    "share by name": ("uv_share", lambda: core.DecoupledConfig(uv_share="cross_attn")),  # type: ignore[arg-type]
    "the root itself": (
        "LoRA target",
        lambda: inject_lora(torch.nn.Linear(2, 2), [""], rank=1, alpha=1),
    ),
    "states by role": (
        "frames of 'video'",
        lambda: core.FramePlan(
            name="x",
            groups={"video": (core.Role.CONDITION, core.Role.DENOISE)},  # type: ignore[dict-item]
        ),
    ),
    "plan of no groups": ("groups", lambda: core.FramePlan(name="x", groups=(core.DENOISE,))),  # type: ignore[arg-type]
    "clean latents of no group": ("clean", lambda: noised(clean=X)),
    "clean latents as a list": ("clean['texture']", lambda: noised(texture=[0.0])),
    "timesteps": ("sigma", lambda: noised(sigma=torch.tensor([0.5, 500.0]))),
    "level above 1": ("sigma", lambda: noised(sigma=torch.tensor([0.5, 1.0001]))),
    "level below 0": ("sigma", lambda: noised(sigma=torch.tensor([-0.1, 1.0]))),
    "level that is no number": ("sigma", lambda: noised(sigma=torch.tensor([NAN, 0.5]))),
    "whole levels": ("sigma", lambda: noised(sigma=torch.tensor([0, 1]))),
    "velocity of no group": ("velocity", lambda: core.flow_matching_loss(X, training_sample())),  # type: ignore[arg-type]
    "negative mask": (
        "masks['views']",
        lambda: loss_with(masks={"views": -torch.ones(1, 1, 4, 1, 1)}),
    ),
    "mask of no group name": ("masks", lambda: loss_with(masks=X)),
    "half a level": ("TrainingSchedule", lambda: core.TrainingSchedule(num_levels=2.5)),  # type: ignore[arg-type]
    "sampler made already": ("sampler", lambda: sample_by(core.EulerSampler([1.0, 0.0]))),
    "steps for levels": ("sigmas", lambda: sample_by(core.EulerSampler, sigmas=4)),
    "a tensor's one level": (
        "sigmas",
        lambda: sample_by(core.EulerSampler, sigmas=torch.tensor(1.0)),
    ),
    "grid as a tuple": (
        "grid",
        lambda: core.FrameGroup(name="a", stream="mv", grid=(1, 2, 3)),  # type: ignore[arg-type]
    ),
    "policy as a class": (
        "policy",
        lambda: core.RopeSpec(axis_dims=(4, 4, 4), policy=core.Interpolation),  # type: ignore[arg-type]
    ),
    "odd head": ("head_dim", lambda: core.wan_axis_dims(15)),
    "table of groups": ("layout", lambda: core.rope_table([], core.RopeSpec(axis_dims=(4, 4, 4)))),  # type: ignore[arg-type]
    "tables of all streams": ("rope", lambda: core.apply_rope(Q, {"mv": rope_of(4)})),  # type: ignore[arg-type]
    "placement in all streams": ("rope", lambda: core.Placement(rope={"mv": rope_of(4)})),  # type: ignore[arg-type]
    "kept tokens as numbers": ("keep['a']", lambda: kept([0, 1])),
    "kept tokens beyond the grid": ("keep['a']", lambda: kept(torch.tensor([0, 8]))),
    "kept mask of another size": ("keep['a']", lambda: kept(torch.ones(7).bool())),
    "frames as whole layout": ("rows", lambda: modulated(2, rows=LAYOUT)),
    "modulation of one frame": ("values per frame", lambda: modulated(1)),
    "modulation without frames": ("values per frame", lambda: modulated(None)),
    "geometry as a tensor": (
        "geometry latents",
        lambda: core.GeometryLatents(position=X.long(), normal=X),
    ),
    "half a channel": (
        "GeoAttentionConfig",
        lambda: core.GeoAttentionConfig(dim=16.0, num_heads=2),  # type: ignore[arg-type]
    ),
    "channels by name": (
        "GeoAttentionConfig",
        lambda: core.GeoAttentionConfig(dim="16", num_heads=2),  # type: ignore[arg-type]
    ),
    "negative eps": ("eps", lambda: core.GeoAttentionConfig(dim=16, num_heads=2, eps=-1)),
    "order of the layer": (
        "geometry_order",
        lambda: core.GeoAttentionConfig(dim=16, num_heads=2, geometry_order="post"),  # type: ignore[arg-type]
    ),
    "no tensor": ("hidden_states", lambda: LAYER(latents(1, 4, 16).numpy())),
    "rows of another precision": ("hidden_states", lambda: LAYER(latents(1, 4, 16).double())),
    "rows of whole numbers": ("hidden_states", lambda: LAYER(latents(1, 4, 16).long())),
    "rows elsewhere": ("hidden_states", lambda: LAYER(latents(1, 4, 16).to("meta"))),
    "context of another precision": (
        "context",
        lambda: LAYER(latents(1, 4, 16), context=latents(1, 3, 16).half()),
    ),
    "geometry of another precision": ("geometry", lambda: embedded(latents(1, 4, 6).half())),
    "mask of two axes": ("mask", lambda: geo_attention(Q, Q, Q, mask=torch.ones(4, 4).bool())),
    "a folder": ("/", lambda: core.save_model(LAYER, "/")),
    "metadata of numbers": (
        "metadata",
        lambda: core.save_model(LAYER, "/tmp/x.safetensors", metadata={"step": 3}),  # type: ignore[dict-item]
    ),
    "list of velocities": ("velocity of 'views'", lambda: sample_with({"views": [0.0]})),
    "attention by name": ("attend", lambda: geo_attention(Q, Q, Q, attend="sdpa")),  # type: ignore[arg-type]
    "placement of None": (
        "placement",
        lambda: LAYER(latents(1, 4, 16), placement=None),
    ),
    "table with every angle twice": (
        "rope",
        lambda: core.apply_rope(Q, core.Rope(cos=torch.ones(4, 8), sin=torch.zeros(4, 8))),
    ),
    "geometry of numpy": ("geometry", lambda: placed(Q.numpy())),  # type: ignore[arg-type]
    "groups by name": ("frame groups", lambda: core.TokenLayout.of({"a": GROUP})),  # type: ignore[dict-item]
    "known latents as a mapping": (
        "known",
        lambda: core.geo2mv().start(
            {"views": X},  # type: ignore[arg-type]
            sigmas=[1.0, 0.0],
            generator=torch.Generator(),
        ),
    ),
    "shift of no frame": (
        "shift",
        lambda: core.modulated_norm(
            latents(1, 8, 8), latents(1, 8), latents(1, 2, 8), ROWS, eps=1e-6
        ),
    ),
    "gate of one frame": (
        "gate",
        lambda: core.gated_residual(latents(1, 8, 8), latents(1, 8, 8), latents(1, 1, 8), ROWS),
    ),
    "one LoRA target": ("LoRA targets", lambda: inject_lora(LAYER, "to_q", rank=1, alpha=1)),
    "no folder": ("/nowhere", lambda: core.save_model(LAYER, "/nowhere/x.safetensors")),
}


def geometry_reference(order: str) -> Tensor:
    where = core.Placement(rope=rope_of(4), geometry=Q)
    return core.geo_attention_reference(Q, Q, Q, q_placement=where, geometry_order=order)  # type: ignore[arg-type]


def kept(index: object) -> core.TokenLayout:
    return core.TokenLayout(groups=(GROUP,), keep={"a": index})  # type: ignore[dict-item]


def modulated(frames: int | None, rows: object = ROWS) -> Tensor:
    table = latents(1, 8) if frames is None else latents(1, frames, 8)
    return modulate(latents(1, 8, 8), table, table, rows)  # type: ignore[arg-type]


def embedded(geometry: Tensor) -> Tensor:
    layer = core.GeoAttention(core.GeoAttentionConfig(dim=16, num_heads=2, geometry_dim=6))
    where = core.Placement(geometry=geometry)
    return layer(latents(1, 4, 16), placement=where)  # type: ignore[no-any-return]


def placed(geometry: Tensor) -> Tensor:
    return geo_attention(Q, Q, Q, q_placement=core.Placement(geometry=geometry))


@pytest.mark.parametrize("case", CASES)
def test_nonsense_is_named(case: str) -> None:
    subject, call = CASES[case]
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.subject.startswith(subject)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (lambda: core.apply_rope(Q, rope_with(torch.ones(4, 8))), r"cos\[:, 0::2\]"),
        (lambda: rope_with(torch.ones(1, 4, 1, 4)), r"cos\[0, :, 0\]"),
        (lambda: rope_with(torch.ones(4, 4) + 1j), r"freqs\.real"),
        (lambda: core.Placement(rope=(Q, Q)), r"Rope\(cos=\.\.\., sin=\.\.\.\)"),  # type: ignore[arg-type]
    ],
)
def test_tables_of_other_libraries_are_told_how_to_fit(
    table: Callable[[], object], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        table()


def test_a_message_names_the_kind_of_a_wrong_argument_and_not_its_values() -> None:
    with pytest.raises(UsageError, match=r"\[B L C\], got ndarray\."):
        LAYER(torch.rand(1, 4, 16).numpy())


def test_autocast_converts_what_a_layer_reads() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LAYER(latents(1, 4, 16).bfloat16()).dtype == torch.bfloat16


def test_masks_of_the_whole_batch_are_taken() -> None:
    sample = training_sample()
    mask = {"views": torch.ones(1, 1, 4, 1, 1), "texture": torch.ones(2, 1, 1, 4, 4)}
    wrong = {name: target + 1 for name, target in sample.target.items()}
    masked = core.flow_matching_loss(wrong, sample, weight=torch.ones(2), masks=mask)
    assert torch.equal(masked.total, core.flow_matching_loss(wrong, sample).total)


def test_the_compiler_is_not_imported_before_something_is_compiled() -> None:
    """It doubles the time of ``import torch``; only marking a function would load it."""
    code = (
        "import sys, seqtex_core as c; c.SeqTexTransformer, c.GeoAttention, c.sample, c.ATTENTION"
    )
    code += "; c.list_attention('cpu'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
