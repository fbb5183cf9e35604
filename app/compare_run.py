"""Compare runs: small models with different mixers, described by the same profiles and tested by the same cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.compare_config import CompareConfig
from app.running import Listener, Steps, refuse_other_kind, work
from app.train_run import SUMMARY as TRAIN_SUMMARY
from app.views.variant_census import census_record
from app.views.variant_comparison import SUMMARY, CompareRun
from circuits.comparison import Compared, describe_model, example_generator
from headscope.errors import ConfigError, RunError, UnknownNameError
from headscope.models.checkpoints import PREFIX, checkpoint_entry, checkpoints, load_checkpoint
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import read_mixing
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.runs.index import find_run
from headscope.runs.starting import refuse_unwritable
from headscope.tasks.synthetic import SyntheticTask
from headscope.tasks.synthetic_catalog import make_task
from headscope.training.sweep import Cell, SweepConfig


@dataclass(frozen=True)
class _Source:
    """Where one model of the comparison comes from.

    Attributes:
        stage: its name in the run.
        variant: of the registry.
        seed: of its training.
        load: loads it.
    """

    stage: str
    variant: str
    seed: int
    load: Callable[[], Decoder]


@dataclass(frozen=True)
class _Comparison:
    task: SyntheticTask[Any]
    sources: tuple[_Source, ...]


def run_compare(config: CompareConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Compare models in a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for a model that is not there or models of different tasks.
    """
    refuse_unwritable(root)
    comparison = _resolve(config, root)
    first = comparison.sources[0].load()
    writer = RunWriter.create(
        root,
        kind="compare",
        model=_record(config, first),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=[*(source.stage for source in comparison.sources), SUMMARY],
        card=None,
    )
    with writer:
        listener.opened(writer.path)
        return work(writer, _runner(writer, config, comparison), listener)


def resume_compare(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished comparison.

    Raises:
        RunError: if the run is finished or corrupt, or its models are not those it was started with.
    """
    manifest = Run.open(path, verify=False).manifest
    refuse_other_kind(manifest, "compare")
    config = CompareConfig.parse(manifest.config)
    comparison = _resolve(config, path.parent)
    if tuple(source.stage for source in comparison.sources) != tuple(s for s in manifest.planned if s != SUMMARY):
        raise RunError(f"the models of the run {manifest.id} are not those it was started with: start it again.")
    with RunWriter.resume(path) as writer:
        listener.opened(writer.path)
        return work(writer, _runner(writer, config, comparison), listener)


def _runner(writer: RunWriter, config: CompareConfig, comparison: _Comparison) -> Callable[[str, Steps], None]:
    sources = {source.stage: source for source in comparison.sources}

    def run_stage(stage: str, steps: Steps) -> None:
        if stage == SUMMARY:
            found = CompareRun(Run.open(writer.path, verify=False))
            writer.save_record(SUMMARY, census_record(found), seconds=steps.seconds)
            return
        source = sources[stage]
        model = source.load()
        report = describe_model(
            Compared(stage, source.variant, source.seed, model),
            comparison.task,
            n=config.examples,
            draws=config.draws,
            seed=config.seed,
            lengths=config.lengths,
            on_step=steps,
        )
        writer.save_record(
            stage,
            asdict(report) | _task_of(comparison.task),
            tensors=_picture(model, comparison.task, config),
            seconds=steps.seconds,
        )

    return run_stage


def _task_of(task: SyntheticTask[Any]) -> dict[str, Any]:
    """What the models were trained on, beside each report."""
    return {"task_settings": task.settings.model_dump(mode="json"), "length": task.length}


def _picture(model: Decoder, task: SyntheticTask[Any], config: CompareConfig) -> dict[str, np.ndarray]:
    """M of every head on one text, the same for all models, in both views."""
    batch = task.held_out.batch(2, example_generator(config.seed))
    layers = read_mixing(model, batch.given)
    found = {
        view: torch.stack([getattr(layer, view)[0, :, :, : layer.mix.n_tokens] for layer in layers]).half().numpy()
        for view in ("share", "moved")
    }
    if batch.tokens is not None:
        found |= {"tokens": batch.tokens[0].numpy(), "targets": batch.targets[0].numpy()}
    return found


def _resolve(config: CompareConfig, root: Path) -> _Comparison:
    return _from_run(config, root) if config.run is not None else _from_zoo(config)


def _from_zoo(config: CompareConfig) -> _Comparison:
    names = [name for model in config.models for name in _zoo_names(model, config)]
    entries = [checkpoint_entry(name) for name in dict.fromkeys(names)]
    tasks = {(entry.task, repr(sorted(entry.task_settings.items()))) for entry in entries}
    if len(tasks) > 1:
        raise ConfigError(
            f"these models were trained on different tasks: {', '.join(sorted(name for name, _ in tasks))}. "
            "Compare models of one task."
        )
    task = make_task(entries[0].task, **entries[0].task_settings)

    def loader(name: str) -> Callable[[], Decoder]:
        return lambda: load_checkpoint(name).model

    return _Comparison(task, tuple(_Source(e.name, e.variant, e.seed, loader(e.name)) for e in entries))


def _zoo_names(model: str, config: CompareConfig) -> list[str]:
    if model.startswith(PREFIX):
        return [checkpoint_entry(model).name]
    found = [e.name for e in checkpoints().values() if (e.variant, e.task) == (model, config.task)]
    if not found:
        known = sorted({e.variant for e in checkpoints().values() if e.task == config.task})
        raise UnknownNameError.of(
            f"variant with checkpoints of {config.task}",
            model,
            known,
            f"Train it: headscope train {config.task} --variants {model}, then headscope compare {model} --run latest.",
        )
    return found[: config.seeds]


def _from_run(config: CompareConfig, root: Path) -> _Comparison:
    run = Run.open(find_run(root, str(config.run)))
    if run.manifest.kind != "train":
        raise RunError(f"--run wants a train run: {run.manifest.id} was made by `headscope {run.manifest.kind}`.")
    sweep = SweepConfig.parse(run.manifest.config)
    if not sweep.weights:
        raise ConfigError(f"the run {run.manifest.id} kept no weights (weights=false): train again.")
    best = {(row["variant"], row["width"]): row["rate"] for row in run.record(TRAIN_SUMMARY)["variants"]}
    cells = list[Cell]()
    for model in config.models:
        if model not in sweep.variants:
            raise UnknownNameError.of(f"variant of the run {run.manifest.id}", model, sweep.variants)
        width = max(sweep.widths)
        kept = [c for c in sweep.cells if (c.variant, c.width, c.rate) == (model, width, best[model, width])]
        cells += kept[: config.seeds]

    def loader(cell: Cell) -> Callable[[], Decoder]:
        return lambda: _trained(run, cell)

    sources = tuple(_Source(cell.stage, cell.variant, cell.seed, loader(cell)) for cell in cells)
    return _Comparison(make_task(sweep.task, **sweep.task_settings), sources)


def _trained(run: Run, cell: Cell) -> Decoder:
    """A model of a train run."""
    model = Decoder(DecoderConfig.parse(run.record(cell.stage)["decoder"]))
    names = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(run.tensor(cell.stage, f"weights.{name}")) for name in names})
    return model.eval()


def _record(config: CompareConfig, model: Decoder) -> ModelRecord:
    decoder = model.config
    return ModelRecord(
        name="+".join(config.models[:3]) + ("+..." if len(config.models) > 3 else ""),
        source="trained checkpoints" if config.run is None else f"train run {config.run}",
        revision=f"seed {config.seed}",
        n_layers=decoder.n_layers,
        n_heads=decoder.n_heads,
        n_kv_heads=decoder.sharing.key_heads or decoder.n_heads,
        d_head=decoder.head_width,
        d_model=decoder.d_model,
        n_ctx=decoder.n_ctx,
    )
