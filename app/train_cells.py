"""One training of a train run: a cell, saved now and then, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headscope.runs import RunWriter
from headscope.training.saved_state import load_training, save_training
from headscope.training.side_by_side import to_end
from headscope.training.sweep import Cell, SweepConfig
from headscope.training.trainer import Trainer, Training
from probes.mixing_curve import Picture
from probes.training_probe import TrainingProbe

_SAVE_EVERY_S = 20.0
_PICTURED = 32
"""Examples that the probe looks at."""
_PICTURE_SEED = 1_000_003


@dataclass(frozen=True)
class TrainedCell:
    """What is kept of a training.

    Attributes:
        record: numbers, the curve and the decoder's settings.
        tensors: weights and mixing matrices, where they are asked for.
    """

    record: dict[str, Any]
    tensors: dict[str, np.ndarray]


def train_cell(
    config: SweepConfig,
    cell: Cell,
    device: torch.device,
    *,
    folder: Path,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainedCell:
    """Train a cell, from where it was stopped if that was in the middle.

    Args:
        config: of the sweep.
        cell: which training.
        device: what it runs on.
        folder: of the run; the training is saved there every 20 seconds.
        on_step: called with (done, total) steps.
    """
    steps = cell_steps(config, cell, device, folder=folder)
    return to_end(steps, None if on_step is None else lambda done: on_step(done, config.steps))


def cell_steps(
    config: SweepConfig, cell: Cell, device: torch.device, *, folder: Path
) -> Generator[int, None, TrainedCell]:
    """`train_cell` a step at a time: yields the number of steps taken after each, and returns the trained cell."""
    saved_at = folder / _partial(cell)
    trainer = _begun(saved_at, config, cell, device)
    probe = TrainingProbe.of(trainer.task, n=_PICTURED, seed=_PICTURE_SEED, device=device) if config.pictures else None
    saved = trainer.seconds

    def keep(at: Trainer) -> None:
        nonlocal saved
        if probe is None and at.seconds - saved > _SAVE_EVERY_S:  # pictures are not saved in between
            save_training(at, saved_at)
            saved = at.seconds

    training = yield from trainer.steps(probe=probe, on_point=keep)
    record = _record_of(training, trainer) | {"steps_pictured": [p.step for p in _pictures(probe, config)]}
    if probe is not None and probe.own is not None:
        record["measured"] = probe.measured
    return TrainedCell(record, _tensors(trainer, probe, config))


def keep_cell(writer: RunWriter, cell: Cell, trained: TrainedCell, *, seconds: float) -> None:
    """Add a trained cell to its run, and remove what was saved of it on the way."""
    writer.save_record(cell.stage, trained.record, tensors=trained.tensors, seconds=seconds)
    (writer.path / _partial(cell)).unlink(missing_ok=True)


def _partial(cell: Cell) -> str:
    return f"partial-{cell.stage}.safetensors"


def _begun(saved_at: Path, config: SweepConfig, cell: Cell, device: torch.device) -> Trainer:
    wanted = config.training(cell)
    if saved_at.is_file():
        trainer = load_training(saved_at, device=device)
        if trainer.config == wanted:
            return trainer
    return Trainer(wanted, device=device)


def _record_of(training: Training, trainer: Trainer) -> dict[str, Any]:
    return {
        "accuracy": training.tested,
        "held_out": training.held_out,
        "loss": training.curve[-1].loss,
        "solved_at": training.solved_at,
        "steps": training.curve[-1].step,
        "diverged": training.diverged,
        "state_size": trainer.model.state_size(trainer.task.length),
        "parameters": sum(part.numel() for part in trainer.model.parameters()),
        "decoder": trainer.model.config.model_dump(mode="json"),
        "curve": [asdict(point) for point in training.curve],
        "train_seconds": training.seconds,
        "pictured": _PICTURED,
    }


def _pictures(probe: TrainingProbe | None, config: SweepConfig) -> list[Picture]:
    return [] if probe is None else probe.mixing.spread(config.pictures)


def _tensors(trainer: Trainer, probe: TrainingProbe | None, config: SweepConfig) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if config.weights:
        for name, part in trainer.model.state_dict().items():
            found[f"weights.{name}"] = part.detach().float().cpu().numpy()
    pictures = _pictures(probe, config)
    if pictures and probe is not None:
        found["share"] = torch.stack([picture.share for picture in pictures]).numpy()
        found["moved"] = torch.stack([picture.moved for picture in pictures]).numpy()
        if probe.mixing.batch.tokens is not None:
            found["tokens"] = probe.mixing.batch.tokens[0].cpu().numpy()
    return found
