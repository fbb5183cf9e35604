"""Train runs: several variants of attention on one task, at several rates and seeds, a cell at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.running import Listener, Steps, refuse_other_kind, work
from headscope.errors import RunError
from headscope.models.loading import resolve_device
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from headscope.training.saved_state import load_training, save_training
from headscope.training.sweep import Cell, CellResult, SweepConfig, best_rates
from headscope.training.trainer import Trainer, Training, fitted
from probes.mixing_curve import MixingCurve

SUMMARY = "summary"
_SAVE_EVERY_S = 20.0
_PICTURED = 32
"""Examples that the probe looks at."""
_PICTURE_SEED = 1_000_003


def run_train(config: SweepConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Train every cell into a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for a variant, task or setting that does not exist or fit.
    """
    refuse_unwritable(root)
    device = resolve_device(config.device)
    trainers = {name: Trainer(config.training(_first(config, name)), device="cpu") for name in config.variants}
    writer = RunWriter.create(
        root,
        kind="train",
        model=_record(config, trainers[config.variants[0]]),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=[*(cell.stage for cell in config.cells), SUMMARY],
        card=None,
    )
    with writer:
        listener.opened(writer.path)
        return work(writer, _runner(writer, config, device), listener)


def resume_train(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished run; its settings are those it was started with.

    Raises:
        RunError: if the run is finished or corrupt.
    """
    manifest = Run.open(path, verify=False).manifest
    refuse_other_kind(manifest, "train")
    config = SweepConfig.parse(manifest.config)
    if set(manifest.planned) != {*(cell.stage for cell in config.cells), SUMMARY}:
        raise RunError(f"the run {manifest.id} was planned by another version of headscope: start it again.")
    with RunWriter.resume(path) as writer:
        listener.opened(writer.path)
        return work(writer, _runner(writer, config, resolve_device(config.device)), listener)


def results_of(run: Run) -> list[CellResult]:
    """The trainings of a run that are in."""
    config = SweepConfig.parse(run.manifest.config)
    done = {stage.name for stage in run.manifest.stages}
    return [_result_from(run.record(cell.stage), cell) for cell in config.cells if cell.stage in done]


def _first(config: SweepConfig, name: str) -> Cell:
    return next(cell for cell in config.cells if cell.variant == name)


def _record(config: SweepConfig, trainer: Trainer) -> ModelRecord:
    """A manifest wants a model: the first variant's, called after the task."""
    decoder = fitted(trainer.config, trainer.task)
    return ModelRecord(
        name=config.task,
        source="trained from random weights",
        revision=f"seed {config.seed}",
        n_layers=decoder.n_layers,
        n_heads=decoder.n_heads,
        n_kv_heads=decoder.sharing.key_heads or decoder.n_heads,
        d_head=decoder.head_width,
        d_model=decoder.d_model,
        n_ctx=decoder.n_ctx,
    )


def _runner(writer: RunWriter, config: SweepConfig, device: torch.device) -> Callable[[str, Steps], None]:
    cells = {cell.stage: cell for cell in config.cells}

    def run_stage(stage: str, steps: Steps) -> None:
        if stage == SUMMARY:
            found = best_rates(results_of(Run.open(writer.path, verify=False)))
            writer.save_record(SUMMARY, {"variants": [_plain(asdict(one)) for one in found]}, seconds=steps.seconds)
        else:
            _train_cell(writer, config, cells[stage], device, steps)

    return run_stage


def _plain(summary: dict[str, Any]) -> dict[str, Any]:
    """Keys of JSON are text."""
    return summary | {"rates": {f"{rate:g}": mean for rate, mean in summary["rates"].items()}}


def _train_cell(writer: RunWriter, config: SweepConfig, cell: Cell, device: torch.device, steps: Steps) -> None:
    partial = writer.path / "partial.safetensors"
    trainer = _begun(partial, config, cell, device)
    curve = MixingCurve.of(trainer.task, n=_PICTURED, seed=_PICTURE_SEED, device=device) if config.pictures else None
    saved = trainer.seconds

    def keep(at: Trainer) -> None:
        nonlocal saved
        if curve is None and at.seconds - saved > _SAVE_EVERY_S:  # pictures are not saved in between
            save_training(at, partial)
            saved = at.seconds

    training = trainer.run(probe=curve, on_step=steps, on_point=keep)
    tensors = _tensors(trainer, curve, config)
    record = _record_of(training, trainer) | {"steps_pictured": [p.step for p in _pictures(curve, config)]}
    writer.save_record(cell.stage, record, tensors=tensors, seconds=steps.seconds)
    partial.unlink(missing_ok=True)


def _begun(partial: Path, config: SweepConfig, cell: Cell, device: torch.device) -> Trainer:
    """The trainer of a cell, from where it was stopped if that was in the middle."""
    wanted = config.training(cell)
    if partial.is_file():
        trainer = load_training(partial, device=device)
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


def _pictures(curve: MixingCurve | None, config: SweepConfig) -> list[Any]:
    return [] if curve is None else curve.spread(config.pictures)


def _tensors(trainer: Trainer, curve: MixingCurve | None, config: SweepConfig) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if config.weights:
        for name, part in trainer.model.state_dict().items():
            found[f"weights.{name}"] = part.detach().float().cpu().numpy()
    pictures = _pictures(curve, config)
    if pictures and curve is not None:
        found["share"] = torch.stack([picture.share for picture in pictures]).numpy()
        found["moved"] = torch.stack([picture.moved for picture in pictures]).numpy()
        if curve.batch.tokens is not None:
            found["tokens"] = curve.batch.tokens[0].cpu().numpy()
    return found


def _result_from(record: Any, cell: Cell) -> CellResult:
    return CellResult(
        cell=cell,
        accuracy=float(record["accuracy"]),
        held_out=float(record["held_out"]),
        loss=float(record["loss"]),
        solved_at=record["solved_at"],
        steps=int(record["steps"]),
        diverged=bool(record["diverged"]),
        state_size=int(record["state_size"]),
        parameters=int(record["parameters"]),
    )
