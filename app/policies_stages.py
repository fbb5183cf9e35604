"""The stages of a policies run: scores that heads are chosen by, windows that are searched, and every policy judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from app.policies_config import PoliciesConfig
from app.running import Steps
from app.views.policy_heads import FULL_HEADS
from circuits.policies.arms import RANDOM, SEARCHED
from circuits.policies.catalog import policy_kind
from circuits.policies.evaluation import evaluate, policy_of, settings_for
from circuits.policies.head_choice import GatePlan, choose_heads, split_by
from circuits.policies.head_split import HeadSplit, random_split
from circuits.policies.masks import Spans
from circuits.policies.results import Arm, Outcome
from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.settings import DuoSettings
from circuits.policies.span_plans import plan_spans
from circuits.policies.tasks import build_task
from headscope.runs import Run, RunWriter
from headscope.tasks.answers import AnswerBatch
from probes.probe import Bench

HEADS, SPANS_STAGE = "heads", "heads.spans"
_SPAN_TEXTS = 2


def stage_runner(writer: RunWriter, bench: Bench, config: PoliciesConfig) -> Callable[[str, Steps], None]:
    """What measures and saves the stage of a name; prompts of a task are built once for all its stages."""
    batches: dict[tuple[str, int], AnswerBatch] = {}

    def run_stage(stage: str, steps: Steps) -> None:
        first, *rest = stage.split(".")
        if stage == SPANS_STAGE:
            _save_spans(writer, bench, config, steps)
            return
        if first == HEADS:
            rule = rest[0]
            scores, samples = choose_heads(replace(bench, part="choose"), rule, gate_plan(config), on_step=steps)
            writer.save_scores(stage, scores, samples=dict[str, Any](samples), seconds=steps.seconds)
            return
        task, length, name = first, int(rest[0]), rest[1]
        if (task, length) not in batches:
            batches.clear()  # stages come task by task
            batches[task, length] = build_task(replace(bench, part="judge"), task, length=length, n=config.examples)
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
    plans = plan_spans(
        replace(bench, part="choose"),
        config.budgets,
        lengths=config.lengths,
        examples=_SPAN_TEXTS,
        on_step=steps,
        on_left_out=writer.log,
    )
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


def gate_plan(config: PoliciesConfig) -> GatePlan:
    """Gates are trained under the window that streaming heads will have in texts of the gates' length."""
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
