"""Where the parts of a full-size model come from, and what to say when one is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqtex_core.errors import UsageError, WeightsError

from .catalog import CATALOG, CatalogEntry
from .prompt_file import PromptFile, check_prompts

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")  # refused where they are opened
TEXT_FOLDERS = ("text_encoder", "tokenizer")


@dataclass(frozen=True, kw_only=True)
class ModelSources:
    """Files of a model's parts; what is not given comes from the folder of ``weights``.

    Args:
        weights: a diffusers pipeline folder, a transformer's folder or file, or a hub id, which is
            downloaded (the only case that uses the network).
        vae: folder of the VAE, or of a pipeline that has one; or a hub id.
        text: folder with ``text_encoder/`` and ``tokenizer/``; or a hub id.
        text_embeddings: file of encoded prompts, in place of a text encoder.
        random_seed: for seeded random weights, to try the path without any.
    """

    weights: str | None = None
    vae: str | None = None
    text: str | None = None
    text_embeddings: str | None = None
    random_seed: int | None = None

    def check(self, name: str, *, texts: Sequence[str] = (), own_text: Path | None = None) -> None:
        """Refuse what cannot work, before anything is loaded.

        Args:
            name: of the model: one of the catalog, or any other.
            texts: prompts of the run, which need something to encode them.
            own_text: folder of the text encoder of a model that is none of the catalog.

        Raises:
            UsageError: options that exclude each other or belong to other models, or prompts that
                nothing can encode.
            WeightsError: no weights for a model of the catalog, or paths that do not exist.
        """
        if self.text is not None and self.text_embeddings is not None:
            raise UsageError(
                "--text-weights, --text-embeddings", expected="one of the two", got="both"
            )
        if name in CATALOG:
            self._check_full_size(CATALOG.get(name))
        elif self.weights or self.vae or self.random_seed is not None:
            raise UsageError(
                "--weights, --vae-weights, --random-weights",
                expected="a full-size model: --model " + ", ".join(CATALOG.names()),
                got=f"--model {name}, which has weights of its own",
                remedy="Leave them out.",
            )
        for flag, path in self.by_flag().items():
            if isinstance(path, str):
                _check_path(flag, path, hub=flag != "--text-embeddings")
        if self.text_embeddings is not None:
            held = PromptFile.of(Path(self.text_embeddings).expanduser())
            held.check_rows()
            check_prompts(texts, held.names, source=held.path.name)
        elif texts:
            self._check_encoder(name, texts[0], own_text)

    def by_flag(self) -> dict[str, str | int | None]:
        """What was given, under the command line's names."""
        return {
            "--weights": self.weights,
            "--vae-weights": self.vae,
            "--text-weights": self.text,
            "--text-embeddings": self.text_embeddings,
            "--random-weights": self.random_seed,
        }

    def _check_full_size(self, entry: CatalogEntry) -> None:
        if self.weights is not None and self.random_seed is not None:
            raise UsageError("--weights, --random-weights", expected="one of the two", got="both")
        if self.weights is None and self.random_seed is None:
            raise missing_weights(entry)
        if self.random_seed is not None and not 0 <= self.random_seed < 2**63:
            raise UsageError(
                "--random-weights",
                expected="a number from 0 to 2^63 - 1",
                got=str(self.random_seed),
            )

    def _check_encoder(self, name: str, prompt: str, own_text: Path | None) -> None:
        """Refuse a prompt where there is no text encoder; hub ids are believed to have one."""
        given = self.text or self.weights
        folder = own_text if given is None else Path(given).expanduser()
        if folder is None:
            raise missing_encoder(name, prompt)
        lacking = [f"{part}/" for part in TEXT_FOLDERS if not (folder / part).is_dir()]
        if lacking and folder.exists():
            flag = "--prompt" if self.text is None else f"--text-weights {self.text}"
            got = f"no {' and no '.join(lacking)} in {folder}"
            raise missing_encoder(name, prompt, got=got, flag=flag)


def missing_encoder(
    name: str, prompt: str, *, got: str = "neither", flag: str = "--prompt"
) -> UsageError:
    """What to give for a prompt that nothing can encode.

    Args:
        name: of the model.
        prompt: of the run.
        got: what is there instead.
        flag: that is at fault.
    """
    if name not in CATALOG and got == "neither":
        return UsageError(
            "--prompt",
            expected="none: this model was made without text",
            got=repr(prompt),
            remedy="Leave --prompt out; the reference image decides.",
        )
    given = flag != "--prompt"
    return UsageError(
        flag,
        expected="a folder with text_encoder/ and tokenizer/"
        if given
        else "something to encode it: --text-weights DIR, with text_encoder/ and tokenizer/, or "
        "--text-embeddings FILE",
        got=got,
        remedy="" if given else "Leave --prompt out: the text rows are then zero.",
    )


def missing_weights(entry: CatalogEntry) -> WeightsError:
    """What to put where, for a model of the catalog."""
    vae = f" --vae-weights {entry.vae_hub_id}" if entry.vae_hub_id else ""
    return WeightsError(
        f"weights of {entry.name}",
        expected="--weights DIR, a folder as diffusers writes it: "
        f"transformer/*.safetensors ({entry.size}), vae/ and, for --prompt, text_encoder/ and "
        f"tokenizer/ ({entry.text})",
        got="no --weights; none come with seqtex",
        remedy=f"Where there is a network: `hf download {entry.hub_id} --local-dir DIR`, or "
        f"--weights {entry.hub_id}{vae}, which downloads them. A transformer's .safetensors file "
        "does too, with --vae-weights DIR. --random-weights 0 tries everything without weights.",
    )


def missing_vae(entry: CatalogEntry, where: str) -> WeightsError:
    """What to give for the VAE."""
    return WeightsError(
        f"VAE of {entry.name}",
        expected=f"a folder vae/ in {where}, or --vae-weights DIR (config.json and safetensors, as "
        "diffusers writes them)",
        got="neither",
        remedy="--vae-weights also takes a pipeline's folder or a hub id, such as "
        f"{entry.vae_hub_id or entry.hub_id}.",
    )


def _check_path(flag: str, path: str, *, hub: bool) -> None:
    there = Path(path).expanduser()
    if there.exists() or (hub and HUB_ID.fullmatch(path) and there.suffix != ".safetensors"):
        if (there / "seqtex.json").is_file():
            raise UsageError(
                flag,
                expected="weights of a video model",
                got=f"a trained model in {path}",
                remedy=f"Use --model {path}.",
            )
        if there.is_file() and there.suffix.lower() not in (".safetensors", *_PICKLES):
            raise WeightsError(
                f"{flag} {path}", expected="a .safetensors file", got=f"a {there.suffix} file"
            )
        return
    what = "a folder, a file or a hub id (owner/name)" if hub else "a file"
    raise WeightsError(f"{flag} {path}", expected=what, got="nothing there")
