"""Name -> model: the embedded default, planted models, local folders and Hugging Face ids."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headscope.errors import ModelError, UnknownNameError
from headscope.models.checkpoint_index import PREFIX as CHECKPOINT_PREFIX

if TYPE_CHECKING:
    import torch

    from headscope.models.bridged import BridgedModel

PLANTED_PREFIX = "planted:"
PLANTED_KINDS = ("induction", "duplicate", "sink", "retrieval", "local", "all")
PLANTED_CIRCUITS = ("ioi", "greater-than")
_PLANTED = (*PLANTED_KINDS, *PLANTED_CIRCUITS)
TRAINED_IOI = "trained:ioi"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


@dataclass(frozen=True)
class CatalogEntry:
    """One name that `load` knows, and what it loads."""

    name: str
    description: str


def catalog() -> list[CatalogEntry]:
    """Everything that can be loaded by a fixed name, and the two forms that take any name."""
    planted = {
        "induction": "a previous-token head and the induction head that reads it",
        "duplicate": "a duplicate-token head",
        "sink": "a first-position sink head",
        "retrieval": "a copying retrieval head",
        "local": "a local head",
        "all": "all of them among random heads, with grouped keys and values",
        "ioi": "a circuit for indirect objects (duplicate, inhibition, mover heads) among distractors",
        "greater-than": "a circuit for later years among distractors",
    }
    return [
        CatalogEntry("smollm2", "SmolLM2-135M-Instruct, 30 layers x 9 heads, embedded (4-bit weights, dequantised)"),
        *(CatalogEntry(PLANTED_PREFIX + k, f"hand-set weights: {planted[k]}") for k in _PLANTED),
        CatalogEntry(TRAINED_IOI, "trained so that three known heads find the indirect object"),
        CatalogEntry(
            "OWNER/NAME", "any Hugging Face id of a causal language model (local cache first; no remote code)"
        ),
        CatalogEntry("./FOLDER", "a folder with config.json, safetensors weights and a tokenizer"),
    ]


def load(name: str, *, device: str = "auto", dtype: str = "float32", seed: int = 0) -> BridgedModel:
    """Load a model by name.

    Args:
        name: ``smollm2``, ``planted:<kind>``, a local folder, or a Hugging Face id.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: float32 (default: scores are compared to 1e-4), bfloat16 or float16.
        seed: of a planted model's random heads.

    Returns:
        A `BridgedModel`.

    Raises:
        UnknownNameError: for a name that is neither in the catalogue, nor a folder, nor a possible hub id.
        ModelError: if it exists but cannot be loaded; says what was tried.
        DeviceError: for a device this machine lacks.
    """
    from headscope.models import loading

    where, numbers = loading.resolve_device(device), loading.resolve_dtype(dtype)
    if name == "smollm2":
        return loading.load_embedded(name, where, numbers)
    if name == TRAINED_IOI:
        return _load_trained(name, where, numbers)
    if name.startswith(PLANTED_PREFIX):
        return _load_planted(name, where, numbers, seed)
    if _is_folder(name):
        return loading.load_folder(Path(name), where, numbers)
    if name.startswith(CHECKPOINT_PREFIX):
        raise ModelError(
            f"{name!r} cannot be loaded here: a checkpoint is a small decoder, trained on a task of its own, and "
            f"reads no text. Compare it: headscope compare {name}"
        )
    return _load_other(name, where, numbers)


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and Path(name).is_dir()
    except OSError:  # longer than a path may be
        return False


def _load_planted(name: str, device: torch.device, dtype: torch.dtype, seed: int) -> BridgedModel:
    from headscope.models.bridged import BridgedModel
    from headscope.models.planted import PLANTED_NEEDLES, build_planted
    from headscope.models.protocol import Needle

    kind = name.removeprefix(PLANTED_PREFIX)
    if kind not in _PLANTED:
        raise UnknownNameError.of("model", name, [PLANTED_PREFIX + known for known in _PLANTED])
    planted = build_planted(kind, seed)
    needles = tuple(
        Needle(str(index), needle.cue, needle.answer, needle.question, " .")
        for index, needle in enumerate(PLANTED_NEEDLES if kind in PLANTED_KINDS else ())
    )
    weights: Any = planted.hf
    return BridgedModel(
        weights.to(device=device, dtype=dtype),
        planted.tokenizer,
        name=name,
        source="hand-set weights",
        revision=f"seed {seed}",
        needles=needles,
    )


def _load_trained(name: str, device: torch.device, dtype: torch.dtype) -> BridgedModel:
    from headscope.models.bridged import BridgedModel
    from headscope.models.trained import load_ioi_model

    weights, tokenizer = load_ioi_model()
    placed: Any = weights
    return BridgedModel(
        placed.to(device=device, dtype=dtype),
        tokenizer,
        name=name,
        source="trained with interchange interventions, shipped with Headscope",
        revision="1",
    )


def _load_other(name: str, device: torch.device, dtype: torch.dtype) -> BridgedModel:
    """A hub id, unless the name cannot be one or is a slip of a catalogue name."""
    from headscope.models import loading

    known = ["smollm2", TRAINED_IOI, *(PLANTED_PREFIX + kind for kind in _PLANTED)]
    slip = "/" not in name and difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    if slip or not _HUB_ID.match(name):
        raise UnknownNameError.of("model", name, known, "No folder has that path either. See: headscope models")
    return loading.load_hub(name, device, dtype)
