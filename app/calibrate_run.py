"""A calibrate run from end to end: where sinks sit, then per data set heads chosen and judged. Resumable by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headscope.models
from app.calibrate_config import CalibrateConfig
from app.live.plain_data import pack
from app.running import Listener, Steps, model_record, other_weights, refuse_other_kind, work
from app.views.calibration import CLASSES, KIND, SINKS, Key, load_selection, slug
from circuits.calibration.act import heads_by_layer, heads_in_range
from circuits.calibration.head_selection import select_heads
from circuits.calibration.judges import InContextJudge
from circuits.calibration.results import Answers, TrialResult, count_tokens
from circuits.calibration.sink_places import before_and_after, map_sinks, sinks_by_class
from circuits.calibration.trial import arms_of, refuse_overlap, run_arm, summed_up
from circuits.policies.settings import ActSettings
from headscope.errors import ConfigError, RunError, TaskError, UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.runs import Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from headscope.tasks.in_context import InContextBatch, build_in_context
from headscope.tasks.labelled import split
from headscope.tasks.labelled_catalog import labelled_set
from probes.census import PROBES, measure
from probes.probe import Bench
from probes.settings import ProbeConfig

_PROBES = ("induction", "previous_token", "sink")
_SHOWN_TOKENS, _TOKENS_KEPT = 96, 300


@dataclass(frozen=True)
class Parts:
    """Prompts of one data set and seed.

    Attributes:
        select: on which heads are chosen.
        test: on which they are judged; no content is in both.
    """

    select: InContextBatch
    test: InContextBatch


def run_calibration(config: CalibrateConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Calibrate a model into a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for anything about the request that cannot work; a data set that the
            model's tokenizer cannot spell is left out, unless it is the only one.
    """
    refuse_unwritable(root)
    model = _load(config, listener)
    _refuse_no_heads(model, config.act)
    sets, left_out = _possible(config, model)
    for reason in left_out:
        listener.say(reason)
    config = config.model_copy(update={"sets": sets})
    writer = RunWriter.create(
        root,
        kind=KIND,
        model=model_record(model),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=planned_stages(config),
        card=model.seam,
    )
    with writer:
        listener.opened(writer.path)
        for reason in left_out:
            writer.log(reason)
        return work(writer, _runner(writer, model, config), listener)


def resume_calibration(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished run; its settings are those it was started with.

    Raises:
        RunError: if the run is finished or corrupt, or the model's weights are not those it was started with.
    """
    manifest = Run.open(path, verify=False).manifest
    refuse_other_kind(manifest, KIND)
    config = CalibrateConfig.parse(manifest.config)
    if strange := [stage for stage in manifest.planned if stage not in planned_stages(config)]:
        raise RunError(
            f"the run {manifest.id} has the stages {', '.join(strange[:5])}, which this version of headscope does not. "
            "Start it again, or resume it with the version that started it."
        )
    with RunWriter.resume(path) as writer:
        listener.opened(writer.path)
        model = _load(config, listener)
        changed = other_weights(manifest, model)
        if changed is None:
            return work(writer, _runner(writer, model, config), listener)
    raise changed  # outside the block, which would advise to go on with the run


def planned_stages(config: CalibrateConfig) -> tuple[str, ...]:
    """The stages in order: head classes, then ``sentiment.0.select`` and ``.test``, then where sinks sit."""
    seeds = range(config.seed, config.seed + config.seeds)
    keys = [str(Key(slug(name), seed, part)) for name in config.chosen for seed in seeds for part in ("select", "test")]
    return (CLASSES, *keys, SINKS)


def parts_of(model: HookedModel, name: str, config: CalibrateConfig, seed: int) -> Parts:
    """The prompts of a data set for one seed; the same every time."""
    labelled = labelled_set(name)
    drawn = split(labelled, select=config.select, test=config.test, shots=config.shots, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def build(items: Any) -> InContextBatch:
        return build_in_context(
            model, labelled, items, demonstrations=drawn.demonstrations, shots=config.shots, generator=generator
        )

    return Parts(build(drawn.select), build(drawn.test))


def _load(config: CalibrateConfig, listener: Listener) -> HookedModel:
    listener.stage("load", 0, 0)
    model = headscope.models.load(config.model, device=config.device, dtype=config.dtype, seed=config.seed)
    if not model.seam.supports("edit"):
        raise UnsupportedError(
            f"{config.model!r} cannot be calibrated: its attention does not go through the attention registry "
            f"({model.seam['edit'].value})."
        )
    return model


def _refuse_no_heads(model: HookedModel, act: ActSettings) -> None:
    """Refuse heads that the model does not have, and a range without layers."""
    layers = model.shape.n_layers
    if act.heads is None and act.skip_first + act.skip_last >= layers:
        fewer = '{"skip_first": 0}' if layers > act.skip_last else '{"skip_first": 0, "skip_last": 0}'
        raise ConfigError(
            f"no layer is left to calibrate: the model has {layers}, of which the first {act.skip_first} and the last "
            f"{act.skip_last} are skipped. Skip fewer: --set 'act={fewer}'"
        )
    heads_by_layer(model, heads_in_range(model, act))


def _possible(config: CalibrateConfig, model: HookedModel) -> tuple[tuple[str, ...], list[str]]:
    """The data sets that the model can be asked, and why not the others."""
    sets, left_out = list[str](), list[str]()
    for name in config.chosen:
        try:
            for seed in range(config.seed, config.seed + config.seeds):
                parts_of(model, name, config, seed)
            sets.append(name)
        except TaskError as error:
            if len(config.chosen) == 1:
                raise
            left_out.append(f"the data set {name} is left out: {error}")
    if not sets:
        raise TaskError(f"{config.model!r} can be asked none of these data sets: {' '.join(left_out)}")
    return tuple(sets), left_out


def _runner(writer: RunWriter, model: HookedModel, config: CalibrateConfig) -> Callable[[str, Steps], None]:
    names = {slug(name): name for name in config.chosen}

    def run_stage(stage: str, steps: Steps) -> None:
        if stage == CLASSES:
            _save_classes(writer, model, config, steps)
        elif stage == SINKS:
            _save_sinks(writer, model, config, steps)
        else:
            key = Key.read(stage)
            parts = parts_of(model, names[key.name], config, key.seed)
            save = _save_selection if key.part == "select" else _save_trial
            save(writer, stage, model, config, key, parts, steps)

    return run_stage


def _save_classes(writer: RunWriter, model: HookedModel, config: CalibrateConfig, steps: Steps) -> None:
    """Scores whose classes the sinks are told apart by."""
    bench, found = Bench(model, ProbeConfig(seed=config.seed)), list[Any]()
    for index, name in enumerate(_PROBES):
        scores, _ = measure(bench, PROBES[name], on_step=lambda *_: None)
        found += scores
        steps(index + 1, len(_PROBES))
    writer.save_scores(CLASSES, found, seconds=steps.seconds)


def _save(writer: RunWriter, stage: str, kind: str, result: Any, steps: Steps) -> None:
    arrays = dict[str, np.ndarray]()
    record = {"kind": kind, "result": pack(result, arrays)}
    writer.save_record(stage, record, tensors=arrays or None, seconds=steps.seconds)


def _save_selection(
    writer: RunWriter, stage: str, model: HookedModel, config: CalibrateConfig, key: Key, parts: Parts, steps: Steps
) -> None:
    """Heads chosen on the selection split."""
    chosen = select_heads(model, InContextJudge(parts.select), config.trial.calibration, on_step=steps)
    writer.log(f"{key.name}, seed {key.seed}: {len(chosen.heads)} of {len(chosen.candidates)} heads chosen")
    _save(writer, stage, "act_selection", chosen, steps)


def _save_trial(
    writer: RunWriter, stage: str, model: HookedModel, config: CalibrateConfig, key: Key, parts: Parts, steps: Steps
) -> None:
    """The chosen heads and every control on the test split."""
    chosen = load_selection(Run.open(writer.path, verify=False), key)
    test = InContextJudge(parts.test)
    refuse_overlap(InContextJudge(parts.select), test)
    settings = config.trial
    arms = arms_of(chosen, settings, np.random.default_rng([config.seed, key.seed]))
    answers = list[Answers]()
    for index, arm in enumerate(arms):
        answers.append(run_arm(model, test, arm, settings) if arm.heads or not answers else answers[0])
        steps(index + 1, len(arms))
    result: TrialResult = summed_up(model, test, chosen, arms, answers, settings)
    _save(writer, stage, "act_trial", result, steps)


def _save_sinks(writer: RunWriter, model: HookedModel, config: CalibrateConfig, steps: Steps) -> None:
    """Where the sinks sit on test prompts, by head class, and the pattern of the head that changes most in each set."""
    run = Run.open(writer.path, verify=False)
    maps, classes, shown, tokens_kept = list[Any](), list[Any](), list[Any](), list[Any]()
    scores = run.scores()
    members = {name: score.members() for name, score in scores.items() if score.definition.head_class}
    for index, name in enumerate(config.chosen):
        batch = parts_of(model, name, config, config.seed).test
        rows = batch.rows[: config.texts, 0]
        tokens, lengths = batch.tokens[rows], batch.lengths[rows]
        found = map_sinks(model, tokens, config.act, lengths=lengths)
        chosen = load_selection(run, Key(slug(name), config.seed, "select")).heads
        everything = [Head(a, b) for a in range(model.shape.n_layers) for b in range(model.shape.n_heads)]
        groups = {**members, "chosen by ACT": list(chosen), "all": everything}
        maps.append(replace(found, spots=()))
        tokens_kept.append([asdict(one) for one in count_tokens(found.spots)[:_TOKENS_KEPT]])
        classes.append(sinks_by_class(found, groups))
        head = chosen[0] if chosen else _heaviest(found.mass)
        text = tokens[0, : min(int(lengths[0]), _SHOWN_TOKENS)]
        shown.append(before_and_after(model, text, head, config.act))
        steps(index + 1, len(config.chosen))
    arrays = dict[str, np.ndarray]()
    record = {
        "kind": "act_sinks",
        "sets": list(config.chosen),
        "maps": [pack(one, arrays, f"map{i}") for i, one in enumerate(maps)],
        "classes": [pack(one, arrays, f"classes{i}") for i, one in enumerate(classes)],
        "shown": [pack(one, arrays, f"shown{i}") for i, one in enumerate(shown)],
        "tokens": tokens_kept,
    }
    writer.save_record(SINKS, record, tensors=arrays, seconds=steps.seconds)


def _heaviest(mass: np.ndarray) -> Head:
    """The head with most mass on sinks other than the first token."""
    layer, head = np.unravel_index(int(mass[..., 1:].sum(-1).argmax()), mass.shape[:2])
    return Head(int(layer), int(head))
