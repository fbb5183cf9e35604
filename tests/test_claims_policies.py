"""Two claims of docs/results on the real model, with the heads that the shipped runs found."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from app.calibrate_config import CalibrateConfig
from app.views.calibration import Key, load_selection
from circuits.calibration.judges import InContextJudge
from circuits.calibration.trial import arms_of, run_arm
from circuits.policies.evaluation import evaluate, policy_of
from circuits.policies.head_split import HeadSplit, random_split, strongest_split
from circuits.policies.results import Arm
from headscope.models.bridged import BridgedModel
from headscope.runs import Run
from headscope.tasks import build_in_context, build_needles, labelled_set
from headscope.tasks.answers import needle_answers
from headscope.tasks.labelled import split
from probes.probe import Bench

LENGTH, PROMPTS, ITEMS = 384, 4, 12


def shipped(kind: str) -> Run:
    folder = Path(str(files("app.demo") / "runs"))
    (path,) = (one for one in folder.iterdir() if f"-{kind}-smollm2-" in one.name)
    return Run.open(path, verify=False)


@pytest.mark.slow
def test_a_quarter_of_the_heads_by_trained_gates_keep_needles_that_a_quarter_at_random_lose(
    smollm2: BridgedModel,
) -> None:
    gates = shipped("policies").score("duo_gate")
    bench = Bench(smollm2)
    needles = build_needles(
        smollm2, bench.held_out, length=LENGTH, n=PROMPTS, generator=torch.Generator().manual_seed(0)
    )
    batch, shape = needle_answers(needles), smollm2.shape

    def accuracy(split: HeadSplit | None) -> tuple[float, float]:
        arm = Arm("full") if split is None else Arm("duo", budget=1 / 16, share=0.25)
        policy = policy_of(smollm2, arm, length=LENGTH, split=split)
        found = evaluate(smollm2, arm, batch, task="needle", policy=policy)
        return float(found.values.mean()), found.share_kept

    full, _ = accuracy(None)
    gated, kept = accuracy(strongest_split(gates, 0.25))
    drawn, as_much = accuracy(random_split(shape.n_layers, shape.n_kv_heads, 0.25, np.random.default_rng(1)))
    assert full > 0.8
    assert kept == pytest.approx(as_much)
    assert kept < 0.33
    assert gated > 0.75 * full
    assert drawn < 0.6 * full


@pytest.mark.slow
def test_chosen_heads_calibrated_raise_the_margin_of_items_not_seen_and_random_heads_do_not(
    smollm2: BridgedModel,
) -> None:
    run = shipped("calibrate")
    config = CalibrateConfig.parse(run.manifest.config)
    labelled = labelled_set("subjectivity")
    parts = split(labelled, select=config.select, test=config.test, shots=config.shots, seed=config.seed)
    assert not {item.group for item in parts.select} & {item.group for item in parts.test}
    batch = build_in_context(
        smollm2,
        labelled,
        parts.test[:ITEMS],
        demonstrations=parts.demonstrations,
        shots=config.shots,
        generator=torch.Generator().manual_seed(0),
    )
    selection, test = load_selection(run, Key("subjectivity", config.seed, "select")), InContextJudge(batch)
    settings = config.trial
    arms = {arm.name: arm for arm in arms_of(selection, settings, np.random.default_rng(0))}
    margin = {
        name: run_arm(smollm2, test, arms[name], settings).margin
        for name in ("baseline", "selected heads", "random heads 1", "opposite")
    }
    assert margin["selected heads"] > margin["baseline"] + 0.3
    assert margin["random heads 1"] < margin["baseline"] + 0.1
    assert margin["opposite"] < margin["baseline"] - 0.1
