"""The text encoder as Wan uses it: fixed length, zeros beyond the prompt."""

from __future__ import annotations

import pytest
import torch

from seqtex_backbones.text import load_text_encoder
from seqtex_core.errors import WeightsError

transformers = pytest.importorskip("transformers", reason="text prompts need transformers")
tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random umT5 with a word tokenizer, in the layout of diffusers."""
    words = ["<pad>", "</s>", "<unk>", "a", "red", "wooden", "chair"]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        " ", "removed"
    )  # at no other white space
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path = tmp_path_factory.mktemp("text")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path / "tokenizer")
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.UMT5EncoderModel(config).save_pretrained(path / "text_encoder")
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return load_text_encoder(folder, max_length=12)


def test_padding_is_masked_cut_off_or_kept(folder):
    """Rows of the prompt: alone, or with what pads it before them; rows behind it: zero or not."""
    zero, cut, kept = (
        load_text_encoder(folder, max_length=12, padding=padding).encode(["a red chair"])
        for padding in ("zero", "cut", "kept")
    )
    assert torch.equal(cut[0, :4], kept[0, :4])
    assert not torch.allclose(cut[0, :4], zero[0, :4], atol=1e-3)
    assert torch.equal(cut[0, 4:], torch.zeros(8, 16))
    assert kept[0, 4:].abs().sum(-1).min() > 0


def test_rows_beyond_the_prompt_are_zero(encoder):
    rows = encoder.encode(["a red chair", ""])
    assert rows.shape == (2, 12, 16)
    assert rows[0, :4].abs().sum(-1).min() > 0
    assert torch.equal(rows[0, 4:], torch.zeros(8, 16))
    assert rows[1, 0].abs().sum() > 0  # the end token of an empty prompt
    assert torch.equal(rows[1, 1:], torch.zeros(11, 16))


def test_prompts_do_not_see_each_other(encoder):
    alone = encoder.encode(["a red chair"])
    together = encoder.encode(["a red chair", "a wooden chair a red chair"])
    # Same sums in another batch: fp32 rounding of two layers of width 16.
    torch.testing.assert_close(alone[0], together[0], atol=2e-6, rtol=1e-5)


def test_spaces_do_not_matter_and_long_prompts_are_cut(encoder):
    assert torch.equal(encoder.encode(["a  red\n chair "]), encoder.encode(["a red chair"]))
    assert encoder.encode(["chair " * 50]).shape == (1, 12, 16)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(WeightsError, match="tokenizer"):
        load_text_encoder(tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    target = tmp_path / "text_encoder"
    target.mkdir()
    (target / "config.json").write_bytes((folder / "text_encoder" / "config.json").read_bytes())
    (target / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="safetensors"):
        load_text_encoder(tmp_path)
