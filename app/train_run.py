"""Train runs: several variants of attention on one task, at several rates and seeds, a cell at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from app.running import Listener, Steps, refuse_other_kind, work
from app.train_cells import keep_cell, train_cell
from app.train_workers import work_in_processes
from headscope.errors import RunError
from headscope.models.loading import resolve_device
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from headscope.training.sweep import Cell, CellResult, SweepConfig, best_rates
from headscope.training.trainer import Trainer, fitted

SUMMARY = "summary"


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
        return _work(writer, config, device, listener)


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
        return _work(writer, config, resolve_device(config.device), listener)


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


def _work(writer: RunWriter, config: SweepConfig, device: torch.device, listener: Listener) -> Path:
    if config.workers > 1:
        work_in_processes(writer, config, listener)
    return work(writer, _runner(writer, config, device), listener)


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
    trained = train_cell(config, cell, device, folder=writer.path, on_step=steps)
    keep_cell(writer, cell, trained, seconds=steps.seconds)


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
