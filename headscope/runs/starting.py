"""The first moment of a run: a folder with a manifest, a lock and a name of its own."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from headscope.runs.files import sync_folder, unwritable
from headscope.runs.locking import FolderLock
from headscope.runs.manifest import LOG, PROGRESS, UNFINISHED, Manifest, new_id, write_manifest


def refuse_unwritable(root: Path) -> None:
    """See whether a run could be started in ``root``, before any work for it; leaves nothing behind.

    Raises:
        RunError: if ``root`` cannot be written.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    trial = root / f".new-{secrets.token_hex(6)}"
    try:
        trial.mkdir(parents=True)
    except OSError as error:
        raise unwritable(trial, error) from error
    finally:
        with contextlib.suppress(OSError):  # another run may have started there
            for folder in (trial, *missing):
                folder.rmdir()


def start_folder(root: Path, manifest: Manifest) -> tuple[Manifest, FolderLock]:
    """Make ``<root>/<id>.tmp/`` and lock it; the manifest returned has the id that was free.

    The folder is built under a hidden name and then renamed, so that no ``.tmp`` is ever without a manifest.

    Raises:
        RunError: if ``root`` cannot be written.
    """
    hidden = root / f".new-{secrets.token_hex(6)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        for name in (PROGRESS, LOG):
            (hidden / name).touch()
        lock = FolderLock.take(hidden)
        manifest = _claim(hidden, manifest)
        sync_folder(root)
    except BaseException as error:
        shutil.rmtree(hidden, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(hidden, error) from error
        raise
    return manifest, lock


def _claim(hidden: Path, manifest: Manifest) -> Manifest:
    """Rename the folder to its id; where the same run was started in the same second, take the next one."""
    while True:
        write_manifest(hidden, manifest)
        if not hidden.with_name(manifest.id).exists():
            try:
                hidden.rename(hidden.with_name(manifest.id + UNFINISHED))
                return manifest
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        time.sleep(1)
        now = datetime.now(UTC)
        name = new_id(manifest.kind, manifest.model.name, manifest.id[-8:], now)
        manifest = manifest.model_copy(update={"id": name, "started": now.isoformat(timespec="seconds")})
