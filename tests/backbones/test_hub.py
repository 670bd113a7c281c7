"""Downloads from the hub: nothing of the client's is printed, and progress is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from seqtex_backbones.hub import quiet_hub
from seqtex_backbones.weight_source import download
from seqtex_core.errors import WeightsError


def test_bars_and_retries_stay_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, int]] = []

    def fetch(hub_id: str, *, tqdm_class: Any, **_: Any) -> str:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        with tqdm_class(desc="files", total=2) as files, tqdm_class(unit="B", total=0) as part:
            part.total += 10
            part.update(4)
            part.total += 10
            part.update(16)
            files.update(2)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    folder = download("owner/name", on_bytes=lambda done, total: told.append((done, total)))
    assert folder == tmp_path
    assert told == [(4, 10), (20, 20)]
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_client_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise OSError("Got: ConnectError: no route\nAn error happened while trying ...")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(WeightsError) as caught:
        download("owner/name")
    assert caught.value.got == "no such folder; from the hub: ConnectError: no route"


def test_the_client_is_as_before_afterwards() -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity(), are_progress_bars_disabled()
    with quiet_hub():
        assert are_progress_bars_disabled()
        assert hub_logging.get_verbosity() == logging.ERROR
    assert (hub_logging.get_verbosity(), are_progress_bars_disabled()) == before
