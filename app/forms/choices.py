"""Names that a form offers, written down here because their registries load torch; a test compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.inspect_config import STAGES
from app.live import policy_choice
from circuits.methods import METHODS
from circuits.policies.catalog import POLICIES
from headscope.tasks.contrast_catalog import CONTRAST_TASKS
from headscope.tasks.labelled_catalog import LABELLED

PROBES = ("previous_token", "duplicate_token", "induction", "copying", "sink", "local", "entropy", "retrieval")
HEAD_CLASSES = ("previous-token", "duplicate-token", "induction", "copying", "sink", "local", "retrieval")
PLANTED = ("induction", "duplicate", "sink", "retrieval", "local", "all", "ioi", "greater-than")
MODELS = ("smollm2", *(f"planted:{kind}" for kind in PLANTED), "trained:ioi")
ABLATIONS = ("zero", "uniform", "to_bos")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")
NEEDLES = ("dolores", "vault", "soup", "race", "telescope", "lighthouse", "train", "painter")


@dataclass(frozen=True)
class Choices:
    """Values of a setting that are offered.

    Attributes:
        names: the values.
        free: whether others may be typed.
    """

    names: tuple[str, ...]
    free: bool = False


OFFERED: Mapping[str, Choices] = {
    "stages": Choices(tuple(STAGES)),
    "model": Choices(MODELS, free=True),
    "probes": Choices(PROBES, free=True),
    "checks": Choices(HEAD_CLASSES),
    "ablation": Choices(ABLATIONS),
    "policy": Choices(("full", *policy_choice.OFFERED)),
    "device": Choices(DEVICES, free=True),
    "dtype": Choices(DTYPES),
    "needles": Choices(NEEDLES),
    "task": Choices(tuple(CONTRAST_TASKS)),
    "tasks": Choices(tuple(CONTRAST_TASKS)),
    "methods": Choices(tuple(METHODS)),
    "sets": Choices(tuple(LABELLED), free=True),
    "policies": Choices(tuple(POLICIES)),
}
