"""The trained decoders that come along: they are there, small, loadable, and as accurate as their index says."""

from __future__ import annotations

from collections import defaultdict
from importlib import resources

import pytest
import torch

from headscope.errors import UnknownNameError
from headscope.mixers.registry import variants
from headscope.models.checkpoints import checkpoints, load_checkpoint

MOST_BYTES = 20 * 2**20
ANSWERS, LISTED = 4 * 256, 4 * 512
"""Drawn here, and behind the accuracies of the index (at least: Bigram-Backcopy asks more)."""


def test_three_seeds_of_thirty_variants_of_both_tasks_are_there_and_fit_in_twenty_megabytes() -> None:
    seeds = defaultdict[tuple[str, str], set[int]](set)
    for entry in checkpoints().values():
        seeds[entry.task, entry.variant].add(entry.seed)
    assert set(map(frozenset, seeds.values())) == {frozenset({0, 1, 2})}
    for task in ("mqar", "bigram-backcopy"):
        names = {variant for at, variant in seeds if at == task}
        assert len(names) >= 30
        assert all(variants()[name].status == "built" for name in names)
    folder = resources.files("headscope.models").joinpath("zoo")
    files = {path.name: len(path.read_bytes()) for path in folder.iterdir()}
    assert set(files) == {f"{name}.safetensors" for name in checkpoints()} | {"index.json"}
    assert sum(files.values()) <= MOST_BYTES


@pytest.mark.parametrize("task", ["mqar", "bigram-backcopy"])
def test_every_checkpoint_has_the_accuracy_of_the_index_on_examples_of_another_draw(task: str) -> None:
    wrong = dict[str, tuple[float, float]]()
    for name in [name for name, entry in checkpoints().items() if entry.task == task and entry.seed == 0]:
        found = load_checkpoint(name)
        batch = found.task.held_out.batch(256, torch.Generator().manual_seed(77))
        with torch.no_grad():
            accuracy = found.task.accuracy(found.model(batch.given), batch)
        listed = found.entry.accuracy
        error = (listed * (1 - listed) * (1 / ANSWERS + 1 / LISTED)) ** 0.5
        if abs(accuracy - listed) > 4 * error + 0.005:
            wrong[name] = (accuracy, listed)
    assert not wrong


def test_rounding_the_weights_cost_nothing_and_failures_stand_beside_what_was_solved() -> None:
    for entry in checkpoints().values():
        assert abs(entry.accuracy - entry.curve[-1][1]) < 0.06, entry.name  # the curve is on 256 other examples
    accuracies = {name: entry.accuracy for name, entry in checkpoints().items()}
    assert min(accuracies[f"mqar.softmax.{seed}"] for seed in range(3)) > 0.98
    assert max(accuracies[f"mqar.aaren.{seed}"] for seed in range(3)) < 0.35


def test_an_unknown_checkpoint_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"mqar\.softmax\.0"):
        load_checkpoint("mqar.softmaxx.0")
