"""A policies run from end to end: choose heads, then every policy on every task. Resumable by policy and task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import headscope.models
from app.policies_config import PoliciesConfig
from app.policies_stages import HEADS, SPANS_STAGE, gate_plan, stage_runner
from app.running import (
    Listener,
    model_record,
    other_weights,
    refuse_other_kind,
    refuse_other_texts,
    text_hashes,
    work,
)
from app.views.policies import KIND
from circuits.policies.arms import SPANS
from circuits.policies.evaluation import policy_of
from circuits.policies.head_choice import refuse_impossible_rule
from circuits.policies.head_split import HeadSplit
from circuits.policies.results import Arm
from circuits.policies.tasks import build_task
from headscope.errors import ConfigError, RunError, TaskError, UnsupportedError
from headscope.runs import Manifest, Run, RunWriter
from headscope.runs.starting import refuse_unwritable
from probes.probe import Bench

_LENGTH = 512


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
        return work(writer, stage_runner(writer, bench, config), listener)


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
            return work(writer, stage_runner(writer, bench, config), listener)
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
    """The config with lengths filled in and everything left out that the model cannot do, and why."""
    lengths = config.lengths or (min(_LENGTH, max(bench.lengths)),)
    config, left_out = config.model_copy(update={"lengths": lengths}), list[str]()
    everything = HeadSplit(np.ones((bench.model.shape.n_layers, bench.model.shape.n_kv_heads), dtype=bool), "all")

    def try_task(task: str) -> None:
        for length in lengths:
            build_task(bench, task, length=length, n=2)

    def try_rule(rule: str) -> None:
        refuse_impossible_rule(bench, rule, gate_plan(config))

    def try_policy(name: str) -> None:
        policy_of(bench.model, Arm(name, config.options.get(name, {})), length=lengths[0], split=everything)

    found: dict[str, Any] = {
        "tasks": _possible("the task", config.tasks, try_task, left_out),
        "policies": _possible("the policy", config.policies, try_policy, left_out),
    }
    if set(found["policies"]) == {"full"}:
        raise TaskError(f"nothing is left to compare the full cache with: {' '.join(left_out)}")
    if config.needed_rules:
        found["rules"] = _possible("the rule", config.rules, try_rule, left_out)
    return config.model_copy(update=found), left_out


def _possible(what: str, names: Sequence[str], attempt: Callable[[str], None], left_out: list[str]) -> tuple[str, ...]:
    """Those that can be done; the reasons of the others are added to ``left_out``.

    Raises:
        HeadscopeError: the reason of the only one, or those of all.
    """
    possible, reasons = list[str](), list[str]()
    for name in names:
        try:
            attempt(name)
            possible.append(name)
        except (TaskError, UnsupportedError, ConfigError) as error:
            if len(names) == 1:
                raise
            reasons.append(f"{what} {name} is left out: {error}")
    if not possible:
        raise TaskError(f"nothing is left to run: {' '.join(reasons)}")
    left_out += reasons
    return tuple(possible)
