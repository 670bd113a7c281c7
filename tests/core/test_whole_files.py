"""Files that take their name when they are whole: what is there before, after and on failure."""

from __future__ import annotations

import os

import pytest

from seqtex_core.errors import UsageError
from seqtex_core.whole_files import replacing


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_unfinished_files_leave_no_trace(tmp_path, failure):
    def fail():
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # whose block ended last


def test_the_new_file_has_the_usual_permissions_and_any_name(tmp_path):
    path = tmp_path / ("n" * 255)  # as long as file systems allow
    plain = tmp_path / "plain"
    plain.touch()
    with replacing(path) as temporary:
        temporary.chmod(0o600)  # as safetensors does
    assert path.stat().st_mode == plain.stat().st_mode


def test_places_that_are_none_are_refused(tmp_path):
    with pytest.raises(UsageError, match="expected a file, got a folder"), replacing(tmp_path):
        pass
    missing = tmp_path / "nothing" / "file"
    with pytest.raises(UsageError, match="in a folder that exists"), replacing(missing):
        pass
    assert os.listdir(tmp_path) == []
