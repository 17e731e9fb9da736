"""Files that are whole or not there, written to the disk itself, and what to do where they cannot be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CURES = {
    **dict.fromkeys(_FULL, "make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change the permissions of the folder, or choose another place"),
    errno.EROFS: "it cannot be written at all: choose another place",
    errno.ENOTDIR: "a file stands where a folder must be: choose another name, or remove the file",
    errno.EEXIST: "a file stands where a folder must be: choose another name, or remove the file",
    errno.EISDIR: "a folder stands where a file must be: choose another name, or remove the folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new one is there, whole.

    Raises:
        OSError: with the path and the free space when it cannot be written; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_through(temporary, data)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise explained(error, path) from error


def write_through(path: Path, data: bytes) -> None:
    """Write a file to the disk itself, not only to the system's memory."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make renames inside a folder lasting."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def explained(error: OSError, path: Path) -> OSError:
    """The same error with the path and what to do, which depends on what is wrong."""
    reason = error.strerror or str(error)
    cure = _CURES.get(error.errno or 0, "choose another place")
    if error.errno in _FULL:
        place = next((parent for parent in path.parents if parent.exists()), None)
        reason += f" ({shutil.disk_usage(place).free / 2**20:,.0f} MiB free)" if place else ""
    told = type(error)(f"cannot write {path}: {reason}; {cure}, then run again")
    told.errno = error.errno  # set here, so that the message does not begin with it
    return told
