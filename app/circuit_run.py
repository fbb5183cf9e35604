"""A circuit run from end to end: prompts, methods, and how far each can be trusted. Resumable stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

import headscope.models
from app.circuit_codes import save_codes
from app.circuit_config import DISCRETE, CircuitConfig
from app.circuit_evaluation import save_agreement, save_check, save_curves
from app.circuit_methods import PARTS, find, found_so_far, load_scores, save_method, save_parts
from app.circuit_prompts import save_prompts
from app.circuit_seeker import Seeker
from app.circuit_stability import save_stability
from app.running import Listener, Steps, model_record, other_weights, refuse_other_kind, work
from circuits.circuit_scores import CircuitScores
from circuits.discovery import graph_of
from circuits.graph import Graph
from circuits.method_settings import PathPatchingSettings
from headscope.config import Config
from headscope.errors import RunError, TaskError
from headscope.models.anatomy import dissect
from headscope.models.protocol import HookedModel
from headscope.runs import Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from headscope.tasks.contrast import ContrastBatch
from headscope.tasks.contrast_performance import judge, require
from headscope.tasks.contrasts import build_contrast
from probes.probe import no_progress

_CURVES, _CODES = "-curves", "-codes"
_JUDGED = ("agreement", "stability", "check")


def run_circuit(config: CircuitConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Look for a circuit into a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for anything about the request that cannot work: a model that cannot
            be taken apart or does not do the task, a tokenizer without the words.
    """
    refuse_unwritable(root)
    seeker = _seeker(config, listener)
    model = seeker.anatomy.model
    writer = RunWriter.create(
        root,
        kind="circuit",
        model=model_record(model),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=planned_stages(config),
        card=model.seam,
    )
    with writer:
        listener.opened(writer.path)
        writer.log(seeker.performance.one_line())
        return work(writer, _runner(writer, seeker), listener)


def resume_circuit(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished run; its settings are those it was started with.

    Raises:
        RunError: if the run is finished or corrupt, or the model's weights are not those it was started with.
    """
    manifest = Run.open(path, verify=False).manifest
    refuse_other_kind(manifest, "circuit")
    config = CircuitConfig.parse(manifest.config)
    if strange := [stage for stage in manifest.planned if stage not in planned_stages(config)]:
        raise RunError(
            f"the run {manifest.id} has the stages {', '.join(strange)}, which this version of headscope does not. "
            "Start it again, or resume it with the version that started it."
        )
    with RunWriter.resume(path) as writer:
        listener.opened(writer.path)
        seeker = _seeker(config, listener)
        changed = other_weights(manifest, seeker.anatomy.model)
        if changed is None:
            return work(writer, _runner(writer, seeker), listener)
    raise changed  # outside the block, which would advise to go on with the run


def planned_stages(config: CircuitConfig) -> tuple[str, ...]:
    """The stages of a run, in order: what methods find first, then what it is worth."""
    found = [stage for method in config.methods for stage in (method, method + PARTS)]
    curves = [method + _CURVES for method in config.methods]
    codes = [method + _CODES for method in config.methods if method.startswith(DISCRETE)]
    return ("prompts", *found, *curves, *_JUDGED, *codes)


def _seeker(config: CircuitConfig, listener: Listener) -> Seeker:
    listener.stage("load", 0, 0)
    model = headscope.models.load(config.model, device=config.device, dtype=config.dtype, seed=config.seed)
    anatomy = dissect(model)
    for method in config.methods:
        _refuse_strange_parts(config.settings_of(method), graph_of(anatomy))
    listener.stage("prompts", 0, 0)
    seen, judged = _draw(config, model)
    performance = judge(model, seen.select(range(min(len(seen), config.pairs))), seed=config.seed)
    require(performance)
    listener.say(performance.one_line())
    return Seeker(config, anatomy, seen, judged, performance)


def _refuse_strange_parts(settings: Config, graph: Graph) -> None:
    """Refuse components and inputs that the model does not have."""
    if isinstance(settings, PathPatchingSettings):
        for label in settings.writers:
            graph.writer(label)
        for label in settings.readers:
            graph.reader(label)


def _draw(config: CircuitConfig, model: HookedModel) -> tuple[ContrastBatch, ContrastBatch]:
    """Pairs for the methods and other pairs to judge on, out of one draw, in which no clean prompt comes twice."""
    most = max(config.pairs_of(method) for method in config.methods)
    try:
        drawn = build_contrast(config.task, model, n=most + config.judged, generator=_generator(config))
    except TaskError:
        if most == config.pairs:
            raise
        most = config.pairs  # the task has too few prompts for the codes to have more than the others
        drawn = build_contrast(config.task, model, n=most + config.judged, generator=_generator(config))
    return drawn.select(range(most)), drawn.select(range(most, most + config.judged))


def _generator(config: CircuitConfig) -> torch.Generator:
    """Where the prompts are drawn from."""
    return torch.Generator().manual_seed(config.seed)


def _runner(writer: RunWriter, seeker: Seeker) -> Callable[[str, Steps], None]:
    methods = seeker.config.methods
    fresh: dict[str, CircuitScores] = {}  # found in this process, and not in the run whole
    kept: dict[str, CircuitScores] = {}  # as the run holds them, in float32: a resumed run sees no others

    def scores_of(method: str) -> CircuitScores:
        if method not in kept:
            kept[method] = load_scores(Run.open(writer.path, verify=False), method)
        return kept[method]

    def run_stage(stage: str, steps: Steps) -> None:
        if stage == "prompts":
            save_prompts(writer, stage, steps, seeker)
        elif stage in methods:
            fresh[stage] = save_method(writer, stage, steps, seeker)
        elif stage.endswith(PARTS):
            method = stage.removesuffix(PARTS)
            save_parts(writer, stage, steps, fresh.pop(method, None) or _again(seeker, method))
        elif stage.endswith(_CODES):
            method = stage.removesuffix(_CODES)
            save_codes(writer, stage, steps, seeker.anatomy, seeker.pairs_of(method), scores_of(method))
        elif stage.endswith(_CURVES):
            save_curves(writer, stage, steps, seeker, scores_of(stage.removesuffix(_CURVES)))
        else:
            found = found_so_far(Run.open(writer.path, verify=False), methods)
            saving = {"agreement": save_agreement, "stability": save_stability}
            saving.get(stage, save_check)(writer, stage, steps, seeker, found)

    return run_stage


def _again(seeker: Seeker, method: str) -> CircuitScores:
    """What a method found, once more: the run was stopped between its scores of heads and the rest."""
    return find(seeker, method, no_progress)
