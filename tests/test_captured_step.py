"""Training as CUDA graphs against training step by step, which wants a GPU; what guards it is tested without one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from unittest.mock import Mock

import pytest
import torch

from headscope.models.decoder.config import DecoderConfig
from headscope.tasks.synthetic import SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task, synthetic_tasks
from headscope.training.captured_step import CapturedStep, CopiedBatches, are_drawn_alike
from headscope.training.saved_state import load_training, save_training
from headscope.training.settings import TaskChoice, TrainingConfig
from headscope.training.trainer import Trainer

gpu = pytest.mark.gpu

REGRESSION = make_task("linear-regression")
TASK = TaskChoice(kind="mqar", settings={"d_vocab": 32, "length": 16, "pairs": 2})


def config(mixer: str) -> TrainingConfig:
    decoder = DecoderConfig.parse({"mixer": mixer, "d_model": 32, "n_heads": 2, "position": "learned"})
    return TrainingConfig(task=TASK, decoder=decoder, steps=24, batch=16, warmup=4, evaluate_every=8, stop_at=2.0)


def capture(trainer: Trainer) -> CapturedStep:
    return CapturedStep(trainer._draw, trainer.update, trainer.optimizer, trainer.generator)  # pyright: ignore[reportPrivateUsage]


def losses(trainer: Trainer, steps: int, step: Callable[[], torch.Tensor]) -> list[float]:
    found = list[float]()
    for at in range(steps):
        for group in trainer.optimizer.param_groups:
            group["lr"].fill_(trainer.config.rate(at))
        found.append(float(step()))
    return found


def plain_losses(trainer: Trainer, steps: int) -> list[float]:
    return losses(trainer, steps, lambda: trainer.update(trainer.task.batch(trainer.config.batch, trainer.generator)))


class Frozen:
    """What a graph would do whose random numbers were drawn once for all."""

    def __init__(self, generator: torch.Generator, moved: int) -> None:
        self.generator, self._moved = generator, moved
        self.batch = draw(twin(generator))

    def refill(self) -> None:
        for _ in range(self._moved):
            draw(self.generator)


class Alike:
    """What a graph should do."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.batch = generator, draw(twin(generator))

    def refill(self) -> None:
        self.batch = draw(self.generator)


def draw(generator: torch.Generator) -> SyntheticBatch:
    return REGRESSION.batch(4, generator)


def twin(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


def at(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("moved", [0, 1, 2], ids=["generator stands", "generator moves", "generator moves too far"])
def test_batches_that_repeat_from_replay_to_replay_are_seen(moved: int) -> None:
    assert not are_drawn_alike(Frozen(at(5), moved), draw)


def test_batches_that_are_the_plain_ones_are_taken_and_stay_where_they_were() -> None:
    batches = Alike(at(5))
    values = draw(at(5)).values
    assert values is not None and bool(values.isnan().any())  # noqa: PT018 - no number is equal to itself
    assert are_drawn_alike(batches, draw)
    assert torch.equal(batches.generator.get_state(), at(5).get_state())


def test_batches_of_a_generator_that_is_left_elsewhere_are_seen() -> None:
    class Ahead(Alike):
        def refill(self) -> None:
            super().refill()
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                draw(self.generator)

    assert not are_drawn_alike(Ahead(at(5)), draw)


def test_copied_batches_come_in_the_same_memory_and_none_is_left_out() -> None:
    batches, plain = CopiedBatches(draw, at(5)), at(5)
    memory = batches.batch.inputs
    for _ in range(3):
        batches.refill()
        expected = draw(plain)
        assert batches.batch.inputs is memory
        assert memory is not None
        assert expected.inputs is not None
        assert torch.equal(memory, expected.inputs)
        assert torch.equal(batches.batch.targets, expected.targets)


class PretendGraph:
    """What a CUDA graph does, a function at a time: work that is captured is not done, and each replay does it."""

    capturing: ClassVar[PretendGraph | None] = None

    def __init__(self) -> None:
        self.work = list[Callable[[], object]]()

    def register_generator_state(self, generator: torch.Generator) -> None:
        pass

    def replay(self) -> None:
        for one in self.work:
            one()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA that is none."""

    @contextmanager
    def capture(graph: PretendGraph, **_: object) -> Generator[None, None, None]:
        PretendGraph.capturing = graph
        try:
            yield
        finally:
            PretendGraph.capturing = None

    streams = {"default": Mock(spec=torch.cuda.Stream), "own": Mock(spec=torch.cuda.Stream)}
    fakes = {
        "CUDAGraph": PretendGraph,
        "graph": capture,
        "Stream": lambda: streams["own"],
        "current_stream": lambda: streams["default"],
        "default_stream": lambda: streams["default"],
        "stream": lambda _: nullcontext(),
        "set_stream": lambda _: None,
        "synchronize": lambda: None,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def deferred_draw(trainer: Trainer, *, is_frozen: bool = False) -> Callable[[torch.Generator], SyntheticBatch]:
    def plain(generator: torch.Generator) -> SyntheticBatch:
        return trainer.task.batch(16, generator)

    def one(generator: torch.Generator) -> SyntheticBatch:
        if PretendGraph.capturing is None:
            return plain(generator)
        memory = plain(twin(generator))

        def work() -> None:
            drawn = plain(twin(generator) if is_frozen else generator)
            for name in ("tokens", "targets", "asked"):
                getattr(memory, name).copy_(getattr(drawn, name))

        PretendGraph.capturing.work.append(work)
        return memory

    return one


def deferred_update(trainer: Trainer, *, fails: bool = False) -> Callable[[SyntheticBatch], torch.Tensor]:
    def one(batch: SyntheticBatch) -> torch.Tensor:
        if PretendGraph.capturing is None:
            return trainer.update(batch)
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        loss = torch.zeros(())
        PretendGraph.capturing.work.append(lambda: loss.copy_(trainer.update(batch)))
        return loss

    return one


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize(
    ("is_frozen", "fails", "parts"),
    [(False, False, ("batch", "update")), (True, False, ("update",)), (False, True, ())],
    ids=["all of it", "batches that would repeat", "nothing"],
)
def test_whatever_is_captured_no_batch_is_left_out_or_trained_on_twice(
    is_frozen: bool, fails: bool, parts: tuple[str, ...]
) -> None:
    trainer, other = Trainer(config("softmax")), Trainer(config("softmax"))
    step = CapturedStep(
        deferred_draw(trainer, is_frozen=is_frozen),
        deferred_update(trainer, fails=fails),
        trainer.optimizer,
        trainer.generator,
    )
    assert losses(trainer, 12, step) == plain_losses(other, 12)
    assert step.parts == parts
    assert torch.equal(step.generator.get_state(), other.generator.get_state())
    step.release()
    assert losses(trainer, 8, step) == plain_losses(other, 8)


@gpu
@pytest.mark.parametrize("mixer", ["softmax", "sigmoid", "delta", "retention", "mamba2"])
def test_a_graph_trains_as_single_kernels_do(mixer: str) -> None:
    plain, graph = (Trainer(config(mixer), device="cuda") for _ in range(2))
    step = capture(graph)
    expected = plain_losses(plain, 24)
    assert losses(graph, 24, step) == pytest.approx(expected, rel=2e-3)
    assert step.parts == ("batch", "update")
    assert torch.equal(step.generator.get_state(), plain.generator.get_state())
    fresh = Trainer(config(mixer))
    for one, other, start in zip(*(t.model.parameters() for t in (plain, graph, fresh)), strict=True):
        assert torch.allclose(one, other, rtol=2e-2, atol=2e-3)
        assert not torch.equal(one.cpu(), start)


@gpu
@pytest.mark.parametrize("task", synthetic_tasks())
def test_the_graphs_read_the_plain_batches_of_every_task_and_each_only_once(task: str) -> None:
    made, plain = make_task(task), torch.Generator("cuda").manual_seed(7)
    shape = made.batch(4, torch.Generator("cuda").manual_seed(0))
    given, targets = torch.zeros_like(shape.given), torch.zeros_like(shape.targets)

    def update(batch: SyntheticBatch) -> torch.Tensor:
        given.copy_(batch.given)  # a part of the graph, too
        targets.copy_(batch.targets)
        return given.double().sum()

    optimizer = torch.optim.SGD([torch.zeros((), device="cuda", requires_grad=True)], lr=0.1)
    begun = torch.Generator("cuda").manual_seed(7)
    step, seen = (
        CapturedStep(lambda generator: made.batch(4, generator), update, optimizer, begun),
        list[torch.Tensor](),
    )
    for _ in range(24):
        step()
        expected = made.batch(4, plain)
        assert torch.equal(given, expected.given)
        assert torch.equal(targets, expected.targets)
        seen.append(given.clone())
    assert "update" in step.parts
    assert not any(torch.equal(one, other) for one, other in pairwise(seen))


@gpu
def test_batches_that_want_the_cpu_are_drawn_plainly_and_trained_on_by_a_graph() -> None:
    trainer, other = (Trainer(config("softmax"), device="cuda") for _ in range(2))

    def looks_at_numbers(generator: torch.Generator) -> SyntheticBatch:
        batch = trainer.task.batch(16, generator)
        assert int(batch.targets.max()) > 0  # waits for the GPU
        return batch

    step = CapturedStep(looks_at_numbers, trainer.update, trainer.optimizer, trainer.generator)
    assert losses(trainer, 24, step) == pytest.approx(plain_losses(other, 24), rel=2e-3)
    assert step.parts == ("update",)


@gpu
def test_a_step_that_cannot_be_captured_is_taken_plainly() -> None:
    trainer, other = (Trainer(config("softmax"), device="cuda") for _ in range(2))

    def looks_at_numbers(batch: SyntheticBatch) -> torch.Tensor:
        loss = trainer.update(batch)
        loss.item()  # waits for the GPU, which a capture forbids
        return loss

    step = CapturedStep(trainer._draw, looks_at_numbers, trainer.optimizer, trainer.generator)  # pyright: ignore[reportPrivateUsage]
    assert losses(trainer, 12, step) == pytest.approx(plain_losses(other, 12), rel=2e-3)
    assert step.parts == ()
    assert losses(other, 12, capture(other))  # what failed leaves nothing that stops another capture


@gpu
def test_a_whole_training_runs_on_the_gpu_and_is_the_same_each_time() -> None:
    first, second = (Trainer(config("softmax"), device="cuda").run() for _ in range(2))
    assert [point.loss for point in first.curve] == pytest.approx([point.loss for point in second.curve], rel=1e-3)
    assert [point.step for point in first.curve] == [0, 8, 16, 24]


@gpu
def test_a_training_goes_on_from_where_a_graph_was_saved(tmp_path: Path) -> None:
    whole, file = Trainer(config("softmax"), device="cuda"), tmp_path / "training.safetensors"

    def save(trainer: Trainer) -> None:
        if trainer.step == 16:
            save_training(trainer, file)

    expected = whole.run(on_point=save)
    again = load_training(file, device="cuda")
    found = again.run()
    assert [point.loss for point in found.curve] == pytest.approx([point.loss for point in expected.curve], rel=1e-3)
    assert torch.equal(again.generator.get_state(), whole.generator.get_state())
