"""Files that are whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from pydantic import Field

from headscope.config import Config
from headscope.errors import RunError


class FileRecord(Config):
    """Size and sha256 of a file, as the manifest lists it."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write ``content`` to ``path`` so that a reader, or a kill at any moment, finds all of it or nothing.

    Raises:
        RunError: if the folder cannot be written or the disk is full; the old file, if any, is untouched.
    """
    if not path.name or path.is_dir():
        raise RunError(f"cannot write the file {str(path)!r}: it names a folder. Give the name of a file.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(partial)
        raise unwritable(path, error) from error
    return FileRecord(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def append_line(path: Path, line: str) -> None:
    """Add one line to a log; line breaks inside it become blanks.

    Raises:
        RunError: if the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(" ".join(line.splitlines()) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def drop_cut_line(path: Path) -> None:
    """Remove what follows the last line break of a log: the line during which its writer was killed."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def record_of(path: Path) -> FileRecord:
    """Size and sha256 of the file as it is on disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> RunError:
    """The error of a write that failed: names the folder, the reason and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"cannot write {path}: the disk is full. Free some space; what was finished is kept.")
    reason = error.strerror or str(error)
    return RunError(f"cannot write to the folder {path.parent}: {reason}. Choose a folder you may write to.")


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
