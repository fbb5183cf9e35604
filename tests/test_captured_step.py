"""Training as one CUDA graph against training step by step; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

from headscope.models.decoder.config import DecoderConfig
from headscope.training.captured_step import CapturedStep
from headscope.training.settings import TaskChoice, TrainingConfig
from headscope.training.trainer import Trainer

pytestmark = pytest.mark.gpu

TASK = TaskChoice(kind="mqar", settings={"d_vocab": 32, "length": 16, "pairs": 2})


def config(mixer: str) -> TrainingConfig:
    decoder = DecoderConfig.parse({"mixer": mixer, "d_model": 32, "n_heads": 2, "position": "learned"})
    return TrainingConfig(task=TASK, decoder=decoder, steps=24, batch=16, warmup=4, evaluate_every=8, stop_at=2.0)


def losses(trainer: Trainer, steps: int, *, captured: bool) -> list[float]:
    step = CapturedStep(trainer.update, trainer.optimizer) if captured else trainer.update
    found = list[float]()
    for at in range(steps):
        for group in trainer.optimizer.param_groups:
            group["lr"].fill_(trainer.config.rate(at))
        found.append(float(step(trainer.task.batch(trainer.config.batch, trainer.generator))))
    return found


@pytest.mark.parametrize("mixer", ["softmax", "sigmoid", "delta", "retention", "mamba2"])
def test_a_graph_trains_as_single_kernels_do(mixer: str) -> None:
    plain, graph = (Trainer(config(mixer), device="cuda") for _ in range(2))
    expected = losses(plain, 24, captured=False)
    assert losses(graph, 24, captured=True) == pytest.approx(expected, rel=2e-3)
    fresh = Trainer(config(mixer))
    for one, other, start in zip(*(t.model.parameters() for t in (plain, graph, fresh)), strict=True):
        assert torch.allclose(one, other, rtol=2e-2, atol=2e-3)
        assert not torch.equal(one.cpu(), start)


def test_a_step_that_cannot_be_captured_is_taken_plainly() -> None:
    trainer, twin = (Trainer(config("softmax"), device="cuda") for _ in range(2))
    update = trainer.update

    def looks_at_numbers(batch: object) -> torch.Tensor:
        loss = update(batch)  # pyright: ignore[reportArgumentType]
        loss.item()  # waits for the GPU, which a capture forbids
        return loss

    trainer.update = looks_at_numbers  # pyright: ignore[reportAttributeAccessIssue]
    assert losses(trainer, 12, captured=True) == pytest.approx(losses(twin, 12, captured=False), rel=2e-3)


def test_a_whole_training_runs_on_the_gpu_and_is_the_same_each_time() -> None:
    first, second = (Trainer(config("softmax"), device="cuda").run() for _ in range(2))
    assert [point.loss for point in first.curve] == pytest.approx([point.loss for point in second.curve], rel=1e-3)
    assert [point.step for point in first.curve] == [0, 8, 16, 24]
