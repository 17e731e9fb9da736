"""Files that are whole or not there, and the cure for each reason that they cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foveal.data import writing
from foveal.data.writing import write_file


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cannot write .*file/a\.txt: File exists; a file stands where"):
        write_file(tmp_path / "file" / "a.txt", b"")


def test_write_file_replaces_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.json"
    write_file(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device \("):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, r"No space left on device \([\d,]+ MiB free\); make room, or choose another place"),
        (errno.EDQUOT, r"\([\d,]+ MiB free\); make room"),
        (errno.EACCES, "change the permissions of the folder"),
        (errno.EROFS, "it cannot be written at all: choose another place"),
        (errno.ENOTDIR, "a file stands where a folder must be"),
        (errno.EISDIR, "a folder stands where a file must be"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EIO, "choose another place"),
    ],
)
def test_the_cure_fits_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cure: str) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing, "write_through", failing)
    with pytest.raises(OSError, match=rf"^cannot write .*a\.txt: .*{cure}.*, then run again$") as caught:
        write_file(tmp_path / "a.txt", b"")
    assert caught.value.errno == number
    assert ("make room" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long; choose a shorter name"):
        write_file(tmp_path / ("a" * 300) / "b.txt", b"")
