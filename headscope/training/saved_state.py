"""A training as one safetensors file, whole or absent, from which it goes on exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headscope.errors import RunError
from headscope.runs.files import write_file
from headscope.training.settings import TrainingConfig
from headscope.training.trainer import Point, Trainer

_FORMAT = "headscope training 1"


def save_training(trainer: Trainer, path: Path) -> None:
    """Write weights, optimiser, generator and curve; a reader finds all of it or the file before.

    Raises:
        RunError: if the file cannot be written.
    """
    tensors = {f"model.{name}": part for name, part in trainer.model.state_dict().items()}
    for index, state in enumerate(trainer.optimizer.state_dict()["state"].values()):
        tensors |= {f"optimizer.{index}.{name}": part for name, part in state.items()}
    tensors["generator"] = trainer.generator.get_state()
    told = {
        "format": _FORMAT,
        "config": trainer.config.model_dump_json(),
        "curve": json.dumps([dataclasses.asdict(point) for point in trainer.curve]),
        "progress": json.dumps({"step": trainer.step, "seconds": trainer.seconds, "device": trainer.device.type}),
    }
    kept = {name: part.detach().cpu().contiguous().clone() for name, part in tensors.items()}
    write_file(path, save(kept, told))


def load_training(path: Path, *, device: str | torch.device = "cpu") -> Trainer:
    """A trainer that stands where the saved one stood.

    Batches are drawn on the device, so a training goes on exactly only on a device of the same type.

    Raises:
        RunError: if the file is not there, is no saved training, or was written on another type of device.
    """
    tensors, told = _read(path)
    progress: dict[str, Any] = json.loads(told["progress"])
    if torch.device(device).type != progress["device"]:
        raise RunError(f"the training {str(path)!r} was on {progress['device']}: go on with it there.")
    trainer = Trainer(TrainingConfig.parse(json.loads(told["config"])), device=device)
    trainer.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": _optimizer_state(tensors)})
    trainer.generator.set_state(tensors["generator"])
    trainer.step, trainer.seconds = int(progress["step"]), float(progress["seconds"])
    trainer.curve = [Point(**point) for point in json.loads(told["curve"])]
    return trainer


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, part in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            found.setdefault(int(index), {})[key] = part
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("format") != _FORMAT:
                raise RunError(f"{str(path)!r} is no saved training of this version of headscope.")
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118 - no iterator
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read the training {str(path)!r}: {error}") from error
