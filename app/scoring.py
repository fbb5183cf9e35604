"""A score run from end to end: load, card, probes, causal checks, run folder. Resumable stage by stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field, PositiveInt

import headscope.models
from app.preflight import check_data, check_request
from circuits.interventions import Ablation
from circuits.validation import EXPERIMENTS, validate
from headscope.errors import ConfigError, RunError, UnsupportedError
from headscope.heads import HeadScores
from headscope.models.embedded import sha256
from headscope.models.protocol import HookedModel
from headscope.readings import read
from headscope.runs import Manifest, ModelRecord, Run, RunWriter
from headscope.runs.provenance import peak_memory_bytes
from headscope.runs.starting import refuse_unwritable
from probes.census import PROBES, choose_probes, measure
from probes.probe import Bench, Probe, ProbeConfig

CHECK = "check_"


class ScoreConfig(ProbeConfig):
    """Everything that decides the numbers of a score run.

    Attributes:
        model: catalogue name, Hugging Face id or folder.
        device: auto, cpu, cuda ...
        dtype: float32, bfloat16 or float16.
        probes: names of probes or scores; all if empty.
        checks: head classes to check by ablation; None means every class that was scored, empty means none.
        ks: numbers of heads to ablate.
        draws: random head sets per number.
        ablation: zero, uniform or to_bos.
        texts: sha256 of the haystack and needle files, filled in when the run starts.
    """

    model: str
    device: str = "auto"
    dtype: str = "float32"
    probes: tuple[str, ...] = ()
    checks: tuple[str, ...] | None = None
    ks: tuple[PositiveInt, ...] = Field(default=(1, 5, 20), min_length=1)
    draws: int = Field(default=20, ge=1, le=10_000)
    ablation: Ablation = Ablation.ZERO
    texts: dict[str, str] = Field(default_factory=dict[str, str])


class Listener(Protocol):
    """Told what a run is doing; the command line draws it."""

    def stage(self, name: str, index: int, count: int) -> None:
        """A stage begins."""
        ...

    def step(self, done: int, total: int) -> None:
        """The stage has come this far."""
        ...

    def say(self, message: str) -> None:
        """Something the user should know."""
        ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a model can be asked for: the probes and checks to run, and why others are left out."""

    probes: tuple[Probe, ...]
    checks: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def stages(self) -> list[str]:
        """Stage names in order."""
        return [probe.name for probe in self.probes] + [CHECK + name for name in self.checks]


def run_scores(config: ScoreConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Score a model into a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for anything about the request that cannot work.
    """
    check_request(config)
    refuse_unwritable(root)
    config = config.model_copy(update={"texts": _text_hashes(config)})
    bench, config = _bench(config, listener)
    plan = _plan(bench, config)
    config = _resolved(config, bench, plan)
    check_data(bench, plan)
    for reason in plan.skipped:
        listener.say(reason)
    writer = RunWriter.create(
        root,
        kind="score",
        model=_record(bench.model),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=plan.stages,
        card=bench.model.card,
    )
    with writer:
        for reason in plan.skipped:
            writer.log(reason)
        return _work(writer, bench, config, listener)


def resume_scores(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished run; its settings are those it was started with.

    Raises:
        RunError: if the run is finished or corrupt, or the model's weights are not those it was started with.
    """
    manifest = Run.open(path, verify=False).manifest
    config = _config_of(manifest)
    if _text_hashes(config) != config.texts:
        raise RunError(
            "the haystack or needle file has changed since the run was started: its stages would mix two texts. "
            "Put the old file back, or start a new run."
        )
    with RunWriter.resume(path) as writer:
        bench, _ = _bench(config, listener)
        if bench.model.revision == manifest.model.revision:
            return _work(writer, bench, config, listener)
    raise RunError(  # outside the block, which would advise to go on with the run
        f"the run was started with {config.model!r} at {manifest.model.revision}, now it is at "
        f"{bench.model.revision}: its stages would mix two models. Start a new run."
    )


def _resolved(config: ScoreConfig, bench: Bench, plan: Plan) -> ScoreConfig:
    """The config with what it left to the model filled in, so that the manifest says what was measured."""
    found: dict[str, Any] = {"prose_length": bench.prose_length}
    if "retrieval" in plan.stages:
        found["lengths"] = bench.lengths
    return config.model_copy(update=found)


def _text_hashes(config: ScoreConfig) -> dict[str, str]:
    files = {"haystack": config.haystack, "needle_file": config.needle_file}
    return {name: sha256(path) for name, path in files.items() if path is not None and path.is_file()}


def _config_of(manifest: Manifest) -> ScoreConfig:
    known = {*PROBES, *(CHECK + name for name in EXPERIMENTS)}
    strange = [stage for stage in manifest.planned if stage not in known]
    if strange:
        raise RunError(
            f"the run {manifest.id} has the stages {', '.join(strange)}, which this version of headscope does not. "
            "Score the model again, or resume it with the version that started it."
        )
    return ScoreConfig.parse(manifest.config)


def _bench(config: ScoreConfig, listener: Listener) -> tuple[Bench, ScoreConfig]:
    """Load the model and see what it supports; falls back to the dense reading where flash sees nothing."""
    listener.stage("load", 0, 0)
    model = headscope.models.load(config.model, device=config.device, dtype=config.dtype, seed=config.seed)
    listener.stage("capability card", 0, 0)
    card = model.card
    reason = _why_not_flash(model) if config.method == "flash" else ""
    if reason:
        if not card.supports("hooks"):
            raise UnsupportedError(
                f"{config.model!r} can be read neither through the attention registry ({reason}) nor through "
                f"TransformerLens ({card['bridge'].value})."
            )
        listener.say(f"{reason}: reading its patterns instead (dense)")
        config = config.model_copy(update={"method": "dense"})
    return Bench(model, config), config


def _why_not_flash(model: HookedModel) -> str:
    """Empty if the flash reading works on this model's attention, else the reason."""
    if not model.card.supports("registry"):
        return "the attention registry is not called in this model"
    try:
        read(model, torch.zeros(1, 8, dtype=torch.long), lambda *_: None)
    except UnsupportedError as error:
        return str(error)
    return ""


def _plan(bench: Bench, config: ScoreConfig) -> Plan:
    card, skipped, probes = bench.model.card, list[str](), list[Probe]()
    for probe in choose_probes(config.probes):
        if probe.needs == "bridge" and not card.supports("bridge"):
            skipped.append(f"probe {probe.name} left out: it needs the TransformerLens twin ({card['bridge'].value})")
        else:
            probes.append(probe)
    scored = [d.head_class for probe in probes for d in probe.definitions if d.head_class]
    wanted = scored if config.checks is None else list(dict.fromkeys(config.checks))
    for name in wanted:
        if name not in scored:
            raise ConfigError(f"the check of {name!r} heads needs their score. Add its probe to --probes.")
    if wanted and not card.supports("edit"):
        skipped.append(f"causal checks left out: an edit of z does not reach the logits ({card['edit'].value})")
        wanted = []
    if not probes:
        raise UnsupportedError(f"{bench.model.name!r} supports none of these probes: {'; '.join(skipped)}")
    return Plan(tuple(probes), tuple(wanted), tuple(skipped))


def _record(model: HookedModel) -> ModelRecord:
    s = model.shape
    return ModelRecord(
        name=model.name,
        source=model.source,
        revision=model.revision,
        n_layers=s.n_layers,
        n_heads=s.n_heads,
        n_kv_heads=s.n_kv_heads,
        d_head=s.d_head,
        d_model=s.d_model,
        n_ctx=s.n_ctx,
    )


class _Steps:
    """Hands steps on to the listener, and to the run's progress file at most twice a second."""

    def __init__(self, writer: RunWriter, listener: Listener, stage: str) -> None:
        self._writer, self._listener, self._stage, self._last = writer, listener, stage, 0.0

    def __call__(self, done: int, total: int) -> None:
        self._listener.step(done, total)
        now = time.monotonic()
        if now - self._last > 0.5 or done == total:
            self._last = now
            self._writer.progress({"stage": self._stage, "done": done, "total": total})


def _work(writer: RunWriter, bench: Bench, config: ScoreConfig, listener: Listener) -> Path:
    planned: Sequence[str] = writer.manifest.planned
    for index, stage in enumerate(planned, 1):
        if writer.has(stage):
            continue
        listener.stage(stage, index, len(planned))
        started, steps = time.monotonic(), _Steps(writer, listener, stage)
        if stage.startswith(CHECK):
            check = validate(
                bench,
                _class_scores(writer, stage.removeprefix(CHECK)),
                ks=config.ks,
                draws=config.draws,
                ablation=config.ablation,
                on_step=steps,
            )
            writer.save_checks(stage, [check], seconds=time.monotonic() - started)
        else:
            scores, samples = measure(bench, PROBES[stage], on_step=steps)
            writer.save_scores(stage, scores, samples=dict[str, Any](samples), seconds=time.monotonic() - started)
        writer.log(f"{stage}: {time.monotonic() - started:.1f} s")
    return writer.finish(peak_memory_bytes=peak_memory_bytes())


def _class_scores(writer: RunWriter, head_class: str) -> HeadScores:
    scores = Run.open(writer.path, verify=False).scores().values()
    return next(score for score in scores if score.definition.head_class == head_class)
