"""Loading the trained small decoders that come with Headscope; see `headscope.models.checkpoint_index`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from headscope.models.checkpoint_index import PREFIX, CheckpointEntry, checkpoint_entry, checkpoints
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.saving import load_decoder
from headscope.tasks.synthetic import SyntheticTask
from headscope.tasks.synthetic_catalog import make_task

__all__ = ["PREFIX", "Checkpoint", "CheckpointEntry", "checkpoint_entry", "checkpoints", "load_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model and what it was trained on."""

    entry: CheckpointEntry
    model: Decoder
    task: SyntheticTask[Any]


def load_checkpoint(name: str) -> Checkpoint:
    """Load ``checkpoint:<name>`` on the CPU, in float32.

    Raises:
        UnknownNameError: if there is none; suggests the nearest.
    """
    entry = checkpoint_entry(name)
    with resources.as_file(resources.files("headscope.models").joinpath("zoo", f"{entry.name}.safetensors")) as file:
        model = load_decoder(file)
    return Checkpoint(entry, model, make_task(entry.task, **entry.task_settings))
