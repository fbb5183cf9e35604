"""Run a model under a policy on a task: what it still answers, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from circuits.policies.arms import refuse_overwritten
from circuits.policies.catalog import build_policy, policy_kind
from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import Policy, applied
from circuits.policies.results import Arm, Outcome
from circuits.policies.settings import PolicySettings
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch, answer_score
from probes.probe import OnStep, no_progress

_TOKENS_PER_FORWARD = 4096


def settings_for(policy: str, given: Mapping[str, Any], *, budget: float, length: int) -> PolicySettings:
    """Settings of a policy with a budget of ``budget * length`` tokens, where it has one (NaN: its own).

    Raises:
        ConfigError: for impossible settings, or such as the budget decides.
    """
    settings = policy_kind(policy).settings.parse(dict(given))
    if budget != budget:
        return settings
    refuse_overwritten(policy, given)
    return settings.sized(max(1, round(budget * length)))


def policy_of(model: HookedModel, arm: Arm, *, length: int, split: HeadSplit | None = None) -> Policy:
    """The policy of an arm, for texts of ``length`` tokens.

    Raises:
        ConfigError: for impossible settings, or a missing split.
        UnsupportedError: if the model cannot run under it.
    """
    settings = settings_for(arm.policy, arm.settings, budget=arm.budget, length=length)
    return build_policy(model, arm.policy, settings, split)


@torch.no_grad()
def evaluate(
    model: HookedModel,
    arm: Arm,
    batch: AnswerBatch,
    *,
    task: str,
    policy: Policy,
    tokens_per_forward: int = _TOKENS_PER_FORWARD,
    on_step: OnStep = no_progress,
) -> Outcome:
    """Teacher-forced answers of every example under a policy.

    A policy that its authors apply once the prompt has been read acts from the prompt's last row on, so that all rows
    that produce the answer are under it (a passage has no prompt); the others act from the first row on.

    Args:
        model: the model.
        arm: what the policy is, for the record.
        batch: prompts with answers.
        task: name of the task, for the record.
        policy: the arm's policy.
        tokens_per_forward: most tokens in a forward pass.
        on_step: called with (done, total) examples.

    Raises:
        UnsupportedError: if the model cannot run under it.
    """
    from_row = 0 if policy.eager else batch.prompt_length - 1
    size = max(1, tokens_per_forward // batch.tokens.shape[1])
    values, counts = list[torch.Tensor](), list[tuple[float, ...]]()
    for first in range(0, len(batch.tokens), size):
        part = batch.select(slice(first, first + size))
        with applied(model, policy, from_row=from_row) as opened:
            logits = model.logits(part.tokens, rows=part.rows.to(model.device))
        values.append(answer_score(logits, part).cpu())
        tally = opened.tally
        numbers = (tally.kv_bytes, tally.full_kv_bytes, tally.share_attended, tally.flops, tally.full_flops)
        counts.append((len(part.tokens), *numbers))
        on_step(min(first + size, len(batch.tokens)), len(batch.tokens))
    weights, *columns = np.array(counts).T
    kept, full, attended, flops, full_flops = (float(np.average(column, weights=weights)) for column in columns)
    return Outcome(
        arm=arm,
        task=task,
        length=batch.tokens.shape[1] if batch.measure == "loss" else batch.prompt_length,
        measure=batch.measure,
        regime="after the prompt" if from_row else "always",
        values=torch.cat(values).double().numpy(),
        kv_bytes=kept,
        full_bytes=full,
        attended=attended,
        flops=flops,
        full_flops=full_flops,
        effective=dict(policy.effective),
    )
