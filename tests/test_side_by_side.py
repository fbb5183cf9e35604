"""Trainings side by side in one process: each comes to what it comes to alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from headscope.training.saved_state import load_training, save_training
from headscope.training.settings import TrainingConfig
from headscope.training.side_by_side import Ended, side_by_side, to_end
from headscope.training.trainer import Trainer, Training

CPU = torch.device("cpu")
MIXERS = ("softmax", "delta", "retention", "sigmoid", "softmax", "delta")


def config(mixer: str, seed: int, **more: Any) -> TrainingConfig:
    return TrainingConfig.parse(
        {
            "task": {"kind": "mqar", "settings": {"d_vocab": 16, "length": 12, "pairs": 2}},
            "decoder": {"mixer": mixer, "n_heads": 1, "d_model": 16, "position": "learned"},
            "steps": 10 + 3 * seed,
            "batch": 8,
            "evaluate_every": 4 + seed,
            "evaluated": 20,
            "warmup": 4,
            "stop_at": 2.0,
            "seed": seed,
        }
        | more
    )


def taken_from(keys: Sequence[Any]) -> Callable[[bool], Any]:
    waiting = iter(keys)
    return lambda _: next(waiting, None)


def trained(
    configs: Sequence[TrainingConfig], *, width: int, device: torch.device = CPU
) -> tuple[dict[int, Trainer], dict[int, Ended[int, Training]]]:
    """Trainers and what they came to, by their place in ``configs``."""
    trainers: dict[int, Trainer] = {}

    def begin(index: int) -> Generator[int, None, Training]:
        trainers[index] = Trainer(configs[index], device=device)
        return trainers[index].steps()

    found = side_by_side(begin, taken_from(range(len(configs))), width=width, device=device)
    return trainers, {ended.key: ended for ended in found}


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in trainer.model.parameters()])


def counting(steps: int) -> Generator[int, None, str]:
    yield from range(1, steps + 1)
    return f"{steps} steps"


@pytest.mark.parametrize("width", [1, 2, 4, 9])
def test_each_training_is_bit_for_bit_what_it_is_alone(width: int) -> None:
    configs = [config(mixer, seed) for seed, mixer in enumerate(MIXERS)]
    trainers, ended = trained(configs, width=width)
    assert len(ended) == len(configs)
    for index, told in enumerate(configs):
        alone = Trainer(told)
        expected, found = alone.run(), ended[index].result
        assert found is not None
        assert found.curve[1:] == expected.curve[1:]  # at step 0 the training loss is no number
        assert (found.curve[0].loss, found.tested) == (expected.curve[0].loss, expected.tested)
        assert torch.equal(weights(trainers[index]), weights(alone))
        assert torch.equal(trainers[index].generator.get_state(), alone.generator.get_state())


def test_they_take_turns_and_the_next_one_takes_the_place_of_one_that_is_over() -> None:
    turns = list[str]()

    def begin(key: str) -> Generator[int, None, str]:
        for step in range(1, int(key[1]) + 1):
            turns.append(f"{key}:{step}")
            yield step
        return key.upper()

    ended = [one.result for one in side_by_side(begin, taken_from(["a1", "b3", "c2"]), width=2, device=CPU)]
    assert turns == ["a1:1", "b3:1", "b3:2", "c2:1", "b3:3", "c2:2"]
    assert ended == ["A1", "B3", "C2"]


def test_one_that_fails_is_handed_out_with_its_error_and_leaves_the_others_alone() -> None:
    good = config("softmax", 1)

    def begin(key: str) -> Generator[int, None, Training]:
        if key == "cannot begin":
            raise ValueError(key)
        trainer = Trainer(good)
        for done in (steps := trainer.steps()):
            if key == "fails" and done == 3:
                raise RuntimeError(key)
            yield done
        steps.close()
        return trainer.result()

    keys = ["fails", "good", "cannot begin", "good too"]
    ended = {one.key: one for one in side_by_side(begin, taken_from(keys), width=3, device=CPU)}
    assert {key: str(one.error) for key, one in ended.items() if one.error} == {key: key for key in keys[::2]}
    expected = Trainer(good).run().curve[1:]
    for key in keys[1::2]:
        result = ended[key].result
        assert result is not None
        assert result.curve[1:] == expected


def test_one_that_diverges_ends_and_leaves_the_other_alone() -> None:
    told = [config("softmax", 0), config("softmax", 1)]
    trainers = [Trainer(one) for one in told]
    with torch.no_grad():
        trainers[0].model.W_U.fill_(math.nan)
    found = side_by_side(lambda trainer: trainer.steps(), taken_from(trainers), width=2, device=CPU)
    first, second = [one.result for one in found]
    assert first is not None
    assert second is not None
    assert (first.diverged, first.tested, second.diverged) == (True, 0.0, False)
    assert second.curve[1:] == Trainer(told[1]).run().curve[1:]


def test_it_asks_again_when_there_was_nothing_and_waits_only_when_nothing_runs() -> None:
    asked, answers = list[bool](), iter([4, None, None, 1, None, None, None, None])

    def take(is_idle: bool) -> int | None:
        asked.append(is_idle)
        return next(answers)

    ended = [one.result for one in side_by_side(counting, take, width=2, device=CPU)]
    assert ended == ["1 steps", "4 steps"]
    assert asked == [True, *[False] * (len(asked) - 2), True]


def test_what_runs_is_closed_when_nobody_wants_the_rest() -> None:
    closed = list[int]()

    def begin(key: int) -> Generator[int, None, int]:
        try:
            yield from range(key)
            return key
        finally:
            closed.append(key)

    found = side_by_side(begin, taken_from([1, 5, 6]), width=3, device=CPU)
    assert next(found).result == 1
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(closed) == [1, 5, 6]


def test_saved_states_of_neighbours_go_on_exactly(tmp_path: Path) -> None:
    told = [config("softmax", 0), config("delta", 2)]
    files = [tmp_path / f"{index}.safetensors" for index in range(2)]
    trainers = [Trainer(one) for one in told]

    def begin(index: int) -> Generator[int, None, Training]:
        return trainers[index].steps(on_point=lambda at: save_training(at, files[index]))

    rounds = side_by_side(begin, taken_from([0, 1]), width=2, device=CPU)
    next(rounds)  # the first is over; the second is somewhere in the middle
    again = load_training(files[1])
    assert 0 < again.step < told[1].steps
    alone = Trainer(told[1])
    assert again.run().curve[1:] == alone.run().curve[1:]
    assert torch.equal(weights(again), weights(alone))


def test_steps_are_counted_to_the_end() -> None:
    seen = list[int]()
    assert to_end(counting(3), seen.append) == "3 steps"
    assert seen == [1, 2, 3]


@pytest.mark.gpu
def test_on_a_gpu_four_side_by_side_are_four_alone() -> None:
    """More than four, so that a stream sees several; sums of floats are not in the same order each time."""
    configs = [config(mixer, seed, steps=40, evaluate_every=8) for seed, mixer in enumerate(MIXERS)]
    trainers, ended = trained(configs, width=4, device=torch.device("cuda"))
    for index, told in enumerate(configs):
        alone = Trainer(told, device="cuda")
        expected, found = alone.run(), ended[index].result
        assert found is not None
        assert [p.loss for p in found.curve] == pytest.approx([p.loss for p in expected.curve], rel=2e-3)
        assert torch.equal(trainers[index].generator.get_state(), alone.generator.get_state())
        assert torch.allclose(weights(trainers[index]), weights(alone), rtol=2e-2, atol=2e-3)


@pytest.mark.gpu
def test_on_a_gpu_one_that_fails_in_the_middle_leaves_the_others_alone() -> None:
    told, device = config("softmax", 1, steps=40, evaluate_every=8), torch.device("cuda")

    def begin(key: str) -> Generator[int, None, Training]:
        trainer = Trainer(told, device=device)
        for done in (steps := trainer.steps()):
            if key == "fails" and done == 9:
                steps.close()
                raise RuntimeError(key)
            yield done
        return trainer.result()

    keys = ["good", "fails", "good too", "good again"]
    ended = {one.key: one for one in side_by_side(begin, taken_from(keys), width=3, device=device)}
    expected = [point.loss for point in Trainer(told, device=device).run().curve]
    for key in ("good", "good too", "good again"):
        result = ended[key].result
        assert result is not None
        assert [point.loss for point in result.curve] == pytest.approx(expected, rel=2e-3)
    assert str(ended["fails"].error) == "fails"
