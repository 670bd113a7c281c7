"""The common ground of all variants: data, model, training and measuring, sized for one CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

TRAIN_KINDS = ("bands", "blotches", "camouflage", "clouds", "gradient", "parts")
HELD_OUT_KINDS = ("ridges", "stitched", "two_sided")
"""Textures whose features are wider than a token; models of this size learn nothing of others."""


@dataclass(frozen=True, kw_only=True)
class Banks:
    """Objects: how many, and how finely they are sampled.

    Args:
        train: objects of the training families.
        views_only: further such objects, which only ``geo2mv`` of the hybrid mix sees.
        held_out: objects of other families, to measure on.
        view_size: pixels of a view.
        uv_size: texels of the texture.
    """

    train: int = 640
    views_only: int = 320
    held_out: int = 128
    view_size: int = 32
    uv_size: int = 64


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What does not differ between the variants.

    Args:
        steps: optimizer steps of every variant, its budget.
        batch_size: samples per step.
        learning_rate: the highest; it falls to 0 along half a cosine.
        warmup_steps: of every stage.
        width: of the transformer.
        heads: attention heads.
        layers: blocks.
        patch: pixels per token and axis.
        sampling_steps: of the measured samples; the first is the one that is compared.
        banks: the objects.
    """

    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 5e-3
    warmup_steps: int = 20
    width: int = 96
    heads: int = 4
    layers: int = 2
    patch: int = 8
    sampling_steps: tuple[int, ...] = (1, 4)
    banks: Banks = field(default_factory=Banks)

    def with_steps(self, steps: int) -> Setting:
        """The same with another budget."""
        return replace(self, steps=steps, warmup_steps=min(self.warmup_steps, max(1, steps // 5)))

    def model_overrides(self, seed: int) -> dict[str, Any]:
        """Entries of the built-in model's config that the setting replaces: all that matter."""
        channels = 3 * self.patch**2
        config = {
            "prediction": "clean",
            "patch_size": [1, 1, 1],
            "in_channels": channels,
            "out_channels": channels,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.width // self.heads,
            "num_layers": self.layers,
            "ffn_dim": 2 * self.width,
        }
        return {
            "task": "img2tex",
            "texture_base": "none",
            "foreground": "none",
            "decoupled": {"copy": "none", "geometry_use": "attention", "geometry_gain": 0.0},
            "view_size": self.banks.view_size,
            "uv_size": self.banks.uv_size,
            "seed": seed,
            "codec": {"patch_size": self.patch},
            "backbone": {"config": config},
        }

    def training_table(self, seed: int, *, work: str) -> dict[str, Any]:
        """A training config of one stage as plain data; see ``seqtex.training.config``.

        Args:
            seed: of the weights and of all that is drawn.
            work: folder of the banks.
        """
        options: Mapping[str, Any] = {
            "banks": f"{work}/banks",
            "kinds": list(TRAIN_KINDS),
        }
        return {
            "seed": seed,
            "folder": ".",
            "model": {"base": "seqtex-tiny", "overrides": self.model_overrides(seed)},
            "data": {"source": "ablation", "options": dict(options)},
            "noise": {
                "prediction_weight": "clamped_clean",
                "weighting": "uniform",
                "sigma_floor": 0.3,
                "high_noise_bias": 4.0,
            },
            "loss": {"outside_weight": 0.02},
            "ema": {"sigma_rels": [0.1], "export_sigma_rel": 0.1},
            "run": {"batch_size": self.batch_size, "num_threads": 1},
            "stages": [self.stage("img2tex", self.steps, {"img2tex": 1.0})],
            "output": {
                "log_every": 100,
                "checkpoint_every": 10**9,
                "checkpoint_minutes": 0,
                "preview_count": 0,
                "tensorboard": "off",
                "storage": "fp32",
                "keep": 1,
            },
        }

    def stage(
        self, name: str, steps: int, tasks: Mapping[str, float], *, restart_uv: bool = False
    ) -> dict[str, Any]:
        """One stage of a training config."""
        return {
            "name": name,
            "steps": steps,
            "tasks": dict(tasks),
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "restart_uv": restart_uv,
        }
