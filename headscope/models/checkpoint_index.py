"""Trained small decoders that come with Headscope: ``checkpoint:mqar.softmax.0``; no torch.

Every seed of a variant's best rate is there, also where it failed: a comparison without the failures would be none.
Weights are bfloat16, and the accuracy listed is measured on the rounded weights. `benchmarks/variant_zoo.py` makes them
of the trainings that `benchmarks/variant_studies.py` names (``zoo-recall``, ``zoo-backcopy``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from headscope.errors import UnknownNameError

PREFIX = "checkpoint:"


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    """A shipped checkpoint.

    Attributes:
        name: ``<task>.<variant>.<seed>``.
        task: what it was trained on.
        task_settings: the task's settings.
        variant: of the registry.
        seed: of the training.
        rate: learning rate.
        steps: steps taken.
        accuracy: on fresh examples, with the rounded weights.
        curve: (step, held-out accuracy) of its evaluations.
    """

    name: str
    task: str
    task_settings: Mapping[str, Any]
    variant: str
    seed: int
    rate: float
    steps: int
    accuracy: float
    curve: tuple[tuple[int, float], ...]


@cache
def checkpoints() -> Mapping[str, CheckpointEntry]:
    """All shipped checkpoints by name."""
    text = resources.files("headscope.models").joinpath("zoo", "index.json").read_text(encoding="utf-8")
    entries = [CheckpointEntry(**_tuples(row)) for row in json.loads(text)["checkpoints"]]
    return {entry.name: entry for entry in entries}


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"curve": tuple((int(step), float(accuracy)) for step, accuracy in row["curve"])}


def checkpoint_entry(name: str) -> CheckpointEntry:
    """The entry of ``checkpoint:<name>``, with or without the prefix.

    Raises:
        UnknownNameError: if there is none; suggests the nearest.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in checkpoints():
        raise UnknownNameError.of("checkpoint", bare, checkpoints())
    return checkpoints()[bare]
