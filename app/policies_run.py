"""A policies run from end to end: choose heads, then every policy on every task. Resumable by policy and task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headscope.models
from app.policies_config import PoliciesConfig, Rule
from app.running import (
    Listener,
    Steps,
    model_record,
    other_weights,
    refuse_other_kind,
    refuse_other_texts,
    text_hashes,
    work,
)
from app.views.policies import KIND
from app.views.policy_heads import FULL_HEADS
from circuits.policies.arms import RANDOM, SEARCHED, SPANS
from circuits.policies.catalog import policy_kind
from circuits.policies.evaluation import evaluate, policy_of, settings_for
from circuits.policies.head_choice import GatePlan, choose_heads, refuse_impossible_rule, split_by
from circuits.policies.head_split import HeadSplit, random_split
from circuits.policies.masks import Spans
from circuits.policies.results import Arm, Outcome
from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.settings import DuoSettings
from circuits.policies.span_plans import plan_spans
from circuits.policies.tasks import build_task
from headscope.errors import ConfigError, RunError, TaskError, UnsupportedError
from headscope.runs import Manifest, Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from headscope.tasks.answers import AnswerBatch
from probes.probe import Bench

HEADS, SPANS_STAGE = "heads", "heads.spans"
_LENGTH, _SPAN_TEXTS = 512, 2


def run_policies(config: PoliciesConfig, *, root: Path, command: str, listener: Listener) -> Path:
    """Run policies on a model into a new run folder; returns the finished folder.

    Raises:
        HeadscopeError: before a folder is made, for anything about the request that cannot work.
    """
    refuse_unwritable(root)
    config = config.model_copy(update={"texts": _text_hashes(config)})
    bench = _load(config, listener)
    config, left_out = _resolved(config, bench)
    for reason in left_out:
        listener.say(reason)
    writer = RunWriter.create(
        root,
        kind=KIND,
        model=model_record(bench.model),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=planned_stages(config),
        card=bench.model.seam,
    )
    with writer:
        listener.opened(writer.path)
        for reason in left_out:
            writer.log(reason)
        return work(writer, _runner(writer, bench, config), listener)


def resume_policies(path: Path, *, listener: Listener) -> Path:
    """Go on with an unfinished run; its settings are those it was started with.

    Raises:
        RunError: if the run is finished or corrupt, or the model's weights are not those it was started with.
    """
    manifest = Run.open(path, verify=False).manifest
    refuse_other_kind(manifest, KIND)
    config = _config_of(manifest)
    refuse_other_texts(config.texts, _text_hashes(config))
    with RunWriter.resume(path) as writer:
        listener.opened(writer.path)
        bench = _load(config, listener)
        changed = other_weights(manifest, bench.model)
        if changed is None:
            return work(writer, _runner(writer, bench, config), listener)
    raise changed  # outside the block, which would advise to go on with the run


def planned_stages(config: PoliciesConfig) -> tuple[str, ...]:
    """The stages in order: scores that heads are chosen by, then ``needle.512.duo`` and the like."""
    policies = list(dict.fromkeys(arm.policy for arm in config.arms))
    chosen = tuple(f"{HEADS}.{rule}" for rule in config.needed_rules)
    judged = (f"{task}.{length}.{name}" for task in config.tasks for length in config.lengths for name in policies)
    spans = (SPANS_STAGE,) if SPANS in policies else ()
    return (*chosen, *spans, *judged)


def _config_of(manifest: Manifest) -> PoliciesConfig:
    config = PoliciesConfig.parse(manifest.config)
    if strange := [stage for stage in manifest.planned if stage not in planned_stages(config)]:
        raise RunError(
            f"the run {manifest.id} has the stages {', '.join(strange[:5])}, which this version of headscope does not. "
            "Start it again, or resume it with the version that started it."
        )
    return config


def _text_hashes(config: PoliciesConfig) -> dict[str, str]:
    return text_hashes(haystack=config.haystack, needle_file=config.needle_file)


def _load(config: PoliciesConfig, listener: Listener) -> Bench:
    listener.stage("load", 0, 0)
    model = headscope.models.load(config.model, device=config.device, dtype=config.dtype, seed=config.seed)
    if not model.seam.supports("edit"):
        raise UnsupportedError(
            f"{config.model!r} cannot run under a policy: its attention does not go through the attention registry "
            f"({model.seam['edit'].value})."
        )
    return Bench(model, config)


def _resolved(config: PoliciesConfig, bench: Bench) -> tuple[PoliciesConfig, list[str]]:
    """The config with lengths filled in and tasks and policies left out that the model cannot do, and why."""
    lengths = config.lengths or (min(_LENGTH, max(bench.lengths)),)
    config, left_out = config.model_copy(update={"lengths": lengths}), list[str]()
    tasks = list[str]()
    for task in config.tasks:
        try:
            for length in lengths:
                build_task(bench, task, length=length, n=2)
            tasks.append(task)
        except TaskError as error:
            if len(config.tasks) == 1:
                raise
            left_out.append(f"the task {task} is left out: {error}")
    if not tasks:
        raise TaskError(f"{config.model!r} does none of these tasks: {' '.join(left_out)}")
    rules = list[Rule]()
    for rule in config.rules if config.needed_rules else ():
        try:
            refuse_impossible_rule(bench, rule, _gate_plan(config))
            rules.append(rule)
        except TaskError as error:
            if len(config.rules) == 1:
                raise
            left_out.append(f"heads are not chosen by {rule}: {error}")
    if not rules and config.needed_rules:
        raise TaskError(f"heads of {config.model!r} can be chosen by none of these rules: {' '.join(left_out)}")
    policies = list[str]()
    everything = np.ones((bench.model.shape.n_layers, bench.model.shape.n_kv_heads), dtype=bool)
    for name in config.policies:
        arm = Arm(name, config.options.get(name, {}), budget=float("nan"))
        try:
            policy_of(bench.model, arm, length=lengths[0], split=HeadSplit(everything, "all"))
            policies.append(name)
        except (UnsupportedError, ConfigError) as error:
            if len(config.policies) == 1:
                raise
            left_out.append(f"the policy {name} is left out: {error}")
    found = {"tasks": tuple(tasks), "policies": tuple(policies), "rules": tuple(rules) or config.rules}
    return config.model_copy(update=found), left_out


def _runner(writer: RunWriter, bench: Bench, config: PoliciesConfig) -> Callable[[str, Steps], None]:
    batches: dict[tuple[str, int], AnswerBatch] = {}

    def run_stage(stage: str, steps: Steps) -> None:
        first, *rest = stage.split(".")
        if stage == SPANS_STAGE:
            _save_spans(writer, bench, config, steps)
            return
        if first == HEADS:
            rule = rest[0]
            scores, samples = choose_heads(bench, rule, _gate_plan(config), on_step=steps)
            writer.save_scores(stage, scores, samples=dict[str, Any](samples), seconds=steps.seconds)
            return
        task, length, name = first, int(rest[0]), rest[1]
        if (task, length) not in batches:
            batches.clear()  # stages come task by task
            batches[task, length] = build_task(bench, task, length=length, n=config.examples)
        outcomes = _judge(writer, bench, config, batches[task, length], (task, length, name), steps)
        splits = [_split(writer, bench, config, outcome.arm) for outcome in outcomes]
        record = {
            "kind": "policy_outcomes",
            "outcomes": [outcome.to_record() for outcome in outcomes],
            "has_heads": any(split is not None for split in splits),
        }
        arrays = {f"values{number}": outcome.values for number, outcome in enumerate(outcomes)}
        arrays |= {f"{FULL_HEADS}{number}": split.full for number, split in enumerate(splits) if split is not None}
        writer.save_record(stage, record, tensors=arrays, seconds=steps.seconds)

    return run_stage


def _save_spans(writer: RunWriter, bench: Bench, config: PoliciesConfig, steps: Steps) -> None:
    """Windows per head for every budget."""
    plans = plan_spans(bench, config.budgets, lengths=config.lengths, examples=_SPAN_TEXTS, on_step=steps)
    record = {"kind": "policy_spans", "budgets": list(plans)}
    arrays = {
        f"{name}{number}": getattr(plan, name)
        for number, plan in enumerate(plans.values())
        for name in ("base", "slope")
    }
    writer.save_record(SPANS_STAGE, record, tensors=arrays or None, seconds=steps.seconds)


def _searched(writer: RunWriter, arm: Arm) -> Spans | None:
    """The windows that were searched for an arm; None if its budget is too small for any."""
    run = Run.open(writer.path, verify=False)
    budgets = [float(budget) for budget in run.record(SPANS_STAGE)["budgets"]]
    if arm.budget not in budgets:
        return None
    base, slope = (run.tensor(SPANS_STAGE, f"{name}{budgets.index(arm.budget)}") for name in ("base", "slope"))
    return Spans(torch.from_numpy(base).float(), torch.from_numpy(slope).float(), SpanSearchSettings().sink)


def _gate_plan(config: PoliciesConfig) -> GatePlan:
    """Gates are trained under the window that streaming heads will have."""
    length = config.gate_length or max(config.lengths)
    settings = settings_for("duo", config.options.get("duo", {}), budget=config.window, length=length)
    assert isinstance(settings, DuoSettings)
    return GatePlan(config.gate_steps, length, settings.sink, settings.recent)


def _judge(
    writer: RunWriter,
    bench: Bench,
    config: PoliciesConfig,
    batch: AnswerBatch,
    what: tuple[str, int, str],
    steps: Steps,
) -> list[Outcome]:
    """All arms of one policy on one task."""
    task, length, name = what
    arms = [arm for arm in config.arms if arm.policy == name]
    found, total = list[Outcome](), len(arms) * len(batch.tokens)
    for index, arm in enumerate(arms):
        policy = (
            _searched(writer, arm)
            if arm.rule == SEARCHED
            else policy_of(bench.model, arm, length=length, split=_split(writer, bench, config, arm))
        )
        if policy is None:
            continue

        def step(done: int, _: int, before: int = index * len(batch.tokens)) -> None:
            steps(before + done, total)

        found.append(
            evaluate(
                bench.model,
                arm,
                batch,
                task=task,
                policy=policy,
                tokens_per_forward=config.forward_tokens,
                on_step=step,
            )
        )
    return found


def _split(writer: RunWriter, bench: Bench, config: PoliciesConfig, arm: Arm) -> HeadSplit | None:
    """Which heads an arm keeps whole, from the scores in the run."""
    if not policy_kind(arm.policy).needs_split:
        return None
    shape = bench.model.shape
    if arm.rule == RANDOM:
        generator = np.random.default_rng([config.seed, arm.draw, round(arm.share * 1e6)])
        return random_split(shape.n_layers, shape.n_kv_heads, arm.share, generator)
    return split_by(arm.rule, Run.open(writer.path, verify=False).scores(), arm.share)
