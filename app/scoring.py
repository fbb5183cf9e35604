"""A score run from end to end: load, card, probes, causal checks, run folder. Resumable stage by stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

import headscope.models
from circuits.interventions import Ablation
from circuits.validation import EXPERIMENTS, validate
from headscope.errors import ConfigError, RunError, UnknownNameError, UnsupportedError
from headscope.heads import HeadScores
from headscope.models.protocol import HookedModel
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.runs.provenance import peak_memory_bytes
from headscope.tasks import build_needles, build_prose
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
    """

    model: str
    device: str = "auto"
    dtype: str = "float32"
    probes: tuple[str, ...] = ()
    checks: tuple[str, ...] | None = None
    ks: tuple[int, ...] = Field(default=(1, 5, 20), min_length=1)
    draws: int = Field(default=20, ge=1, le=10_000)
    ablation: Ablation = Ablation.ZERO


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
    _check_names(config)
    bench, config = _bench(config, listener)
    plan = _plan(bench, config)
    _preflight(bench, plan)
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
    with RunWriter.resume(path) as writer:
        config = ScoreConfig.parse(writer.manifest.config)
        bench, _ = _bench(config, listener)
        if bench.model.revision != writer.manifest.model.revision:
            raise RunError(
                f"the run was started with {config.model!r} at {writer.manifest.model.revision}, now it is at "
                f"{bench.model.revision}: its stages would mix two models. Start a new run."
            )
        return _work(writer, bench, config, listener)


def _check_names(config: ScoreConfig) -> None:
    choose_probes(config.probes)
    for name in config.checks or ():
        if name not in EXPERIMENTS:
            raise UnknownNameError.of("head class with a causal check", name, EXPERIMENTS)
    if config.ablation in (Ablation.MEAN, Ablation.RESAMPLE):
        raise ConfigError(
            f"{config.ablation.value!r} ablation needs a reference batch, which causal checks do not have. "
            "Use zero, uniform or to_bos."
        )


def _bench(config: ScoreConfig, listener: Listener) -> tuple[Bench, ScoreConfig]:
    """Load the model and see what it supports; falls back to the dense reading where flash sees nothing."""
    listener.stage("load", 0, 0)
    model = headscope.models.load(config.model, device=config.device, dtype=config.dtype, seed=config.seed)
    listener.stage("capability card", 0, 0)
    card = model.card
    if config.method == "flash" and not card.supports("registry"):
        if not card.supports("hooks"):
            raise UnsupportedError(
                f"{config.model!r} can be read neither through the attention registry "
                f"({card['registry'].value}) nor through TransformerLens ({card['bridge'].value})."
            )
        listener.say("the attention registry is not called in this model: reading its patterns instead (dense)")
        config = config.model_copy(update={"method": "dense"})
    return Bench(model, config), config


def _plan(bench: Bench, config: ScoreConfig) -> Plan:
    card, skipped, probes = bench.model.card, list[str](), list[Probe]()
    for probe in choose_probes(config.probes):
        if probe.needs == "bridge" and not card.supports("bridge"):
            skipped.append(f"probe {probe.name} left out: it needs the TransformerLens twin ({card['bridge'].value})")
        else:
            probes.append(probe)
    scored = [d.head_class for probe in probes for d in probe.definitions if d.head_class]
    wanted = scored if config.checks is None else list(config.checks)
    for name in wanted:
        if name not in scored:
            raise ConfigError(f"the check of {name!r} heads needs their score. Add its probe to --probes.")
    if wanted and not card.supports("edit"):
        skipped.append(f"causal checks left out: an edit of z does not reach the logits ({card['edit'].value})")
        wanted = []
    if not probes:
        raise UnsupportedError(f"{bench.model.name!r} supports none of these probes: {'; '.join(skipped)}")
    return Plan(tuple(probes), tuple(wanted), tuple(skipped))


def _preflight(bench: Bench, plan: Plan) -> None:
    """Build one small batch of each kind, so that a bad length or haystack fails before any work."""
    names = {probe.name for probe in plan.probes}
    generator = bench.generator("preflight")
    if "retrieval" in names:
        for length in bench.lengths:
            build_needles(
                bench.model,
                bench.haystack,
                length=length,
                n=len(bench.needles),
                generator=generator,
                needles=bench.needles,
                depths=bench.config.depths,
            )
    if names & {"local", "entropy", "sink"}:
        build_prose(bench.model, bench.haystack, n=2, length=bench.prose_length, generator=generator)


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
    return writer.finish(peak_memory_bytes=peak_memory_bytes())


def _class_scores(writer: RunWriter, head_class: str) -> HeadScores:
    scores = Run.open(writer.path, verify=False).scores().values()
    return next(score for score in scores if score.definition.head_class == head_class)
