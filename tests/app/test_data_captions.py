"""Captions on their way into training: drawn by number, dropped out, encoded once."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import MODEL, make_run, tiny_config

from seqtex.data.record import RecordSizes
from seqtex.data.shards import ShardWriter, write_synthetic_shard
from seqtex.data.stream import ShardStream
from seqtex.data.synth import SynthSettings
from seqtex.models.config import ModelConfig
from seqtex.models.folder import CONFIG_NAME, model_folder
from seqtex.models.load import load_model
from seqtex.training import trainer
from seqtex.training.batch import SourceContext
from seqtex.training.caption_rows import CaptionRows, encoder_identity
from seqtex.training.config import DataSection
from seqtex.training.encode import BatchEncoder
from seqtex.training.posthoc import export_average
from seqtex.training.shard_source import ShardSource
from seqtex_backbones.codecs.protocol import codec_from_config
from seqtex_core.tasks import TEXTURE, VIEWS

LENGTH, WIDTH = 6, 4
CAPTIONS = {"long": "a tall blue vase", "short": "vase", "tags": "vase blue"}


class LetterEncoder:
    """A row for each word, of its letters; zeros beyond; one row for no text."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.asked += prompts
        rows = torch.zeros(len(prompts), LENGTH, WIDTH)
        for number, prompt in enumerate(prompts):
            for place, word in enumerate(prompt.split() or ["."]):
                rows[number, place] = torch.tensor([float(len(word)), ord(word[0]), 1.0, 0.5])
        return rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects, the first with captions."""
    folder = tmp_path_factory.mktemp("captions")
    settings = SynthSettings(families=("lathe",), sizes=RecordSizes(view_size=16, uv_size=32))
    write_synthetic_shard(folder / "plain.tar", settings, [0, 1])
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(folder / "plain.tar") as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            content = tar.extractfile(info)
            assert content is not None
            members.setdefault(key, {})[extension] = content.read()
    first = members["00000000"]
    meta = json.loads(io.BytesIO(first["meta.json"]).read())
    first["meta.json"] = json.dumps(meta | {"captions": CAPTIONS}).encode()
    (folder / "set").mkdir()
    with ShardWriter(folder / "set" / "a.tar") as writer:
        for key, parts in members.items():
            writer.add(key, parts)
    return folder / "set"


def captions(source: ShardSource, numbers: range) -> list[str]:
    return list(source.batch(numbers, "img2tex").captions or ())


def test_every_style_is_drawn_and_the_draw_belongs_to_the_number(shards: Path) -> None:
    context = SourceContext(seed=3, view_size=16, uv_size=32)
    drawn = captions(ShardSource({"path": str(shards)}, context), range(40))
    assert set(drawn) == {*CAPTIONS.values(), ""}
    assert drawn.count("") == 20  # the object without captions, once an epoch
    again = ShardSource({"path": str(shards)}, context)
    assert captions(again, range(17, 22)) == drawn[17:22]
    assert next(iter(ShardStream(shards, shuffle_buffer=0))).meta["captions"] == CAPTIONS


def test_captions_are_dropped_out_by_number(shards: Path) -> None:
    context = SourceContext(seed=3, view_size=16, uv_size=32)
    batch = ShardSource({"path": str(shards)}, context).batch(range(60), "img2tex")
    codec = codec_from_config(ModelConfig.read(model_folder("seqtex-tiny")).codec)
    letters = LetterEncoder()
    empty = letters.encode([""])[0]

    def rows(share: float, numbers: range = range(60)) -> Tensor:
        encoder = BatchEncoder(
            codec, outside_weight=0.1, text_encoder=letters, caption_dropout=share, seed=3
        )
        text = encoder(batch, numbers, [VIEWS]).text
        assert text is not None
        return text

    full = rows(0.0)
    assert torch.equal(full, letters.encode(list(batch.captions or ())))
    named = [k for k, text in enumerate(batch.captions or ()) if text]
    dropped = [k for k in named if torch.equal(rows(0.5)[k], empty)]
    assert 5 <= len(dropped) <= 25  # 30 captions: 15 +- 2.7, within 3.6 deviations
    assert all(torch.equal(rows(0.5)[k], full[k]) for k in named if k not in dropped)
    assert torch.equal(rows(1.0), empty.expand(60, -1, -1))
    assert not torch.equal(rows(0.5, range(60, 120)), rows(0.5))
    assert TEXTURE in batch.groups


def test_texts_are_encoded_once_and_only_their_rows_are_stored(tmp_path: Path) -> None:
    letters = LetterEncoder()
    rows = CaptionRows(lambda: letters, identity="one", folder=tmp_path)
    found = rows.encode(["a  vase", "", "a vase"])
    assert torch.equal(found, LetterEncoder().encode(["a vase", "", "a vase"]))
    assert letters.asked == ["a vase", ""]
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    assert max(path.stat().st_size for path in files) < 300  # two of six rows, and a header

    def never() -> LetterEncoder:
        raise AssertionError("all texts are on disk")

    later = CaptionRows(never, identity="one", folder=tmp_path, most=1)
    assert torch.equal(later.encode(["", "a vase"]), found[[1, 0]])
    assert torch.equal(later.encode(["a vase", ""]), found[[0, 1]])  # one had been let go
    with pytest.raises(AssertionError, match="on disk"):
        CaptionRows(never, identity="two", folder=tmp_path).encode(["a vase"])


def test_another_encoder_has_another_identity(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"0" * 10)
    first = encoder_identity(tmp_path)
    assert encoder_identity(tmp_path) == first
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("beside it")
    assert encoder_identity(tmp_path) == first
    (tmp_path / "text_encoder" / "config.json").write_text("[]")
    assert encoder_identity(tmp_path) != first


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that reads text: a random umT5 of width 16 and a tokenizer of words."""
    transformers = pytest.importorskip("transformers", reason="captions need transformers")
    tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers")
    folder = tmp_path_factory.mktemp("base")
    words = {word: k for k, word in enumerate(["<pad>", "</s>", "<unk>", "vase", "blue", "tall"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "text" / "tokenizer")
    torch.manual_seed(0)
    small = transformers.UMT5Config(
        vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=1
    )
    transformers.UMT5EncoderModel(small).save_pretrained(folder / "text" / "text_encoder")
    record = ModelConfig.read(model_folder("seqtex-tiny")).to_json()
    backbone = {**record["backbone"]["config"], **MODEL["backbone"]["config"], "text_length": 8}
    record |= {
        "view_size": 16,
        "uv_size": 32,
        "text_encoder": "text",
        "backbone": {**record["backbone"], "config": backbone},
    }
    (folder / CONFIG_NAME).write_text(json.dumps(record))
    return folder


def test_training_reads_captions(base: Path, shards: Path, tmp_path: Path) -> None:
    """A run whose captions are all dropped learns something else from the same samples."""
    losses = {}
    for name, share in (("read", 0.0), ("again", 0.0), ("dropped", 1.0)):
        plain = tiny_config(4)
        config = replace(
            plain,
            model=replace(plain.model, base=str(base), overrides={}),
            data=DataSection(
                source="shards",
                options={"path": str(shards)},
                cache_latents=str(tmp_path / "cache"),
                caption_dropout=share,
            ),
            stages=(replace(plain.stages[0], tasks={"img2tex_projected": 1}, steps=3),),
        )
        run = make_run(config, tmp_path / name)
        trainer.train(run, resume=False, say=lambda text: None)
        rows = run.encoder.text_encoder
        assert isinstance(rows, CaptionRows)
        assert (rows.encoded > 0) == (name == "read")  # later runs find all texts on disk
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["total"] for line in lines if "event" not in line]
    assert losses["read"] == losses["again"]
    assert losses["read"] != losses["dropped"]
    for place in (tmp_path / "read" / "model", tmp_path / "longer"):
        if place.name == "longer":
            export_average(tmp_path / "read", place, sigma_rel=0.08)
        encoder = load_model(place).text_encoder  # that of the base
        assert encoder is not None
        vase, tall = encoder.encode(["vase", "tall"])
        assert vase.shape == (8, 16)
        assert not torch.equal(vase, tall)
