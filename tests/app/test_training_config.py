"""The TOML file of a run: what is refused, and the configs that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqtex.cli.train import parse_settings
from seqtex.training.comparison import comparable, differences
from seqtex.training.config import TrainingConfig, merge_tables, read_config
from seqtex.training.starting_point import model_config
from seqtex_core.errors import InputError, UsageError, WeightsError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
SMALL = """
[data]
source = "sphere"
[[stages]]
steps = 10
tasks = { img2tex = 1 }
learning_rate = 1e-3
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert model_config(config).name
    assert config.total_steps > 0


def test_shipped_configs_were_found() -> None:
    assert {"smoke", "seqtex-tiny"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sed = 1\n" + SMALL, "seed"),
        (SMALL + "[run]\nbatchsize = 3", "batch_size"),
        (SMALL + "[run]\nbatch_size = 3.5", "batch_size"),
        (SMALL + "[run]\nbatch_size = true", "batch_size"),
        (SMALL + "[run]\nprecision = 'fp8'", "fp32"),
        (SMALL + "[optimizer]\nbetas = [0.9]", "betas"),
        (SMALL + "[optimizer]\nbetas = [0.9, 1.0]", "betas"),
        (SMALL + "[noise]\nhigh_noise_bias = 0", "high_noise_bias"),
        (SMALL + "[ema]\nexport_sigma_rel = 0.07", "export_sigma_rel"),
        (SMALL + "[output]\nkeep = 0", "keep"),
        (SMALL + "[model]\nbase = 3", "base"),
        ("[data]\nsource = 'sphere'", "stages"),
        (SMALL.replace("source", "sources"), "source"),
        (SMALL.replace("steps = 10", "steps = 0"), "stages"),
        (SMALL.replace("{ img2tex = 1 }", "{ img2tex = 'much' }"), "tasks"),
        ("folder = 'x'\n" + SMALL, "folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_config(written(tmp_path, text))


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="TOML"):
        read_config(written(tmp_path, "a = ["))
    with pytest.raises(InputError, match="TOML"):
        read_config(tmp_path / "missing.toml")


def test_overrides_reach_the_model_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    text = SMALL + "[model.overrides.backbone.config]\nnum_layers = 3"
    config = read_config(written(tmp_path, text), parse_settings(["model.overrides.uv_size=64"]))
    model = model_config(config)
    assert model.backbone["config"]["num_layers"] == 3
    assert model.uv_size == 64
    bad = read_config(written(tmp_path, SMALL + "[model.overrides]\nuvsize = 3"))
    with pytest.raises(WeightsError, match="uvsize"):
        model_config(bad)


def test_settings_of_the_command_line() -> None:
    parsed = parse_settings(["run.batch_size=4", "run.precision=bf16", "ema.sigma_rels=[0.1]"])
    assert parsed == {"run": {"batch_size": 4, "precision": "bf16"}, "ema": {"sigma_rels": [0.1]}}
    for bad in ("run.batch_size", "=3"):
        with pytest.raises(UsageError, match="--set"):
            parse_settings([bad])
    assert merge_tables({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_stages_follow_one_another(tmp_path: Path) -> None:
    second = "[[stages]]\nsteps = 5\ntasks = { geo2mv = 1 }\nlearning_rate = 1e-4\nname = 'two'\n"
    config = read_config(written(tmp_path, SMALL + second))
    assert config.total_steps == 15
    assert [config.stage_at(step)[1] for step in (0, 9, 10, 14)] == [0, 9, 0, 4]
    assert [config.stage_at(step)[0].name for step in (9, 10)] == ["train", "two"]


def test_only_what_does_not_change_learning_may_differ_on_resume(tmp_path: Path) -> None:
    def read(changes: list[str]) -> TrainingConfig:
        return read_config(written(tmp_path, SMALL), parse_settings(changes))

    base = comparable(read([]))
    free = ["output.keep=5", "run.micro_batch=1", "run.gradient_checkpointing=true"]
    assert differences(base, comparable(read([*free, "data.prefetch=2"]))) == []
    changed = ["seed=3", "run.batch_size=2", "noise.shift=3.0"]
    found = differences(base, comparable(read(changed)))
    assert found == ["noise.shift", "run.batch_size", "seed"]
