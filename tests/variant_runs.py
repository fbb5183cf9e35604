"""Made-up train and compare runs: every number in them is known, none was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from app.views.variant_census import census_record
from app.views.variant_comparison import CompareRun
from circuits.comparison_results import Claim, Control, CutCheck, HeadProfile, LengthScore, ModelReport
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.statistics import Interval
from headscope.training.sweep import Cell, SweepConfig

LENGTH, LAYERS, HEADS = 6, 2, 2
SWEEP = SweepConfig(
    variants=("softmax", "linear"), widths=(8, 16), rates=(0.01, 0.001), seeds=2, heads=HEADS, steps=100, stop_at=0.9,
    evaluate_every=50, pictures=2,
)  # fmt: skip
STEPS = (0, 50, 100)
STATE = {"softmax": 512, "linear": 64}
NOTHING = Interval(float("nan"), float("nan"), float("nan"))
UNREAD = "the model reads no texts of 12 tokens: its table of positions ends at 8"


def held_out(cell: Cell) -> float:
    """Softmax solves the task at rate 0.01, linear never does and is better at 0.001."""
    base = {"softmax": {0.01: 0.95, 0.001: 0.5}, "linear": {0.01: 0.2, 0.001: 0.4}}[cell.variant][cell.rate]
    return base + 0.01 * cell.seed


def accuracy(cell: Cell) -> float:
    """On fresh examples: a little less."""
    return held_out(cell) - 0.02


def curve(cell: Cell) -> list[dict[str, Any]]:
    """Rises in a straight line; a training that has solved the task ends at step 50."""
    steps = STEPS[:2] if held_out(cell) >= SWEEP.stop_at else STEPS
    last = steps[-1]
    return [
        {
            "step": step, "loss": 2.0 - step / 100, "accuracy": held_out(cell) * step / last,
            "train_loss": float("nan"), "probes": probes(step / last) | measures(cell, step),
        }
        for step in steps
    ]  # fmt: skip


def probes(share: float) -> dict[str, float]:
    """A previous-token head in layer 0 and an induction head in layer 1, as far as they have grown."""
    found: dict[str, float] = {}
    for layer in range(LAYERS):
        for head in range(HEADS):
            name, strong = f"L{layer}H{head}", head == 1
            for view in ("share", "moved"):
                found |= {f"{view}.offset.{d}.{name}": 0.1 * (d + 1) for d in range(3)}
                found |= {f"{view}.match.{d}.{name}": 0.05 for d in (-1, 0, 1, 2, 3, 4)}
                found[f"{view}.first.{name}"] = 0.25
            if strong and layer == 0:
                found[f"share.offset.1.{name}"] = 0.2 + 0.7 * share
            if strong and layer == 1:
                found[f"moved.match.1.{name}"] = 0.05 + 0.9 * share
            found |= {f"first_norm.{name}": 1.5, f"row_mass.{name}": 1.0}
    return found


def measures(cell: Cell, step: int) -> dict[str, float]:
    """Of the task: the second seed lies 0.2 above the first, linear 0.1 above softmax, a head 0.01 above the last."""
    base = 0.2 * cell.seed + 0.1 * (cell.variant == "linear") + step / 1000
    heads = {
        f"share.first.other.L{layer}H{head}": base + 0.01 * (HEADS * layer + head)
        for layer in range(LAYERS)
        for head in range(HEADS)
    }
    norms = {f"residual_norm.first.{place}": 1 + base for place in ("embed", "L0", "L1")}
    whole = {"made_up.number": -base, "uniform.first.other": 0.07, "risk.markov": 3 - base, "risk.markov_floor": 1.5}
    return {**whole, **norms, **heads}


def matrices(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Causal rows that sum to 1."""
    weights = np.tril(np.random.default_rng(seed).random((*shape, LENGTH, LENGTH)) + 0.01)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float16)


def write_train(
    root: Path, model: ModelRecord, *, most: int | None = None, pictures: bool = True, sweep: SweepConfig = SWEEP
) -> Path:
    """A train run; with ``most`` it is left unfinished after so many trainings."""
    cells = sweep.cells
    with RunWriter.create(
        root, kind="train", model=model, config=sweep.model_dump(mode="json"), command="headscope train made-up",
        seed=0, planned=[*(cell.stage for cell in cells), "summary"], card=None,
    ) as writer:  # fmt: skip
        for number, cell in enumerate(cells[:most]):
            _write_cell(writer, cell, number, pictures)
        if most is None:
            writer.save_record("summary", {"variants": []}, seconds=0.0)
    return next(root.glob(f"{writer.path.name.removesuffix('.tmp')}*"))


def _write_cell(writer: RunWriter, cell: Cell, number: int, pictures: bool) -> None:
    points = curve(cell)
    shown = [points[0]["step"], points[-1]["step"]] if pictures else []
    solved = held_out(cell) >= SWEEP.stop_at
    record = {
        "accuracy": accuracy(cell), "held_out": held_out(cell), "loss": points[-1]["loss"],
        "solved_at": points[-1]["step"] if solved else None, "steps": points[-1]["step"], "diverged": False,
        "state_size": STATE[cell.variant] * cell.width, "parameters": 1000 * cell.width, "decoder": {},
        "curve": points if pictures else [{**point, "probes": {}} for point in points], "train_seconds": 1.5,
        "steps_pictured": shown,
    }  # fmt: skip
    tensors = {
        "share": matrices(number, (2, LAYERS, HEADS)), "moved": matrices(100 + number, (2, LAYERS, HEADS)),
        "tokens": np.arange(LENGTH) + 10,
    } if pictures else {}  # fmt: skip
    writer.save_record(cell.stage, record, tensors=tensors, seconds=0.1)


def claim(
    head: str, cells: str, *, cut: float, low: float, high: float, accuracy: float = 0.9, draws: int = 40,
    equal: float | None = None,
) -> Claim:  # fmt: skip
    """A claim whose random cuts cost from 0 to 0.02; cuts of equal weight cost ``equal``, or there are none."""
    random = tuple(accuracy - 0.02 * draw / max(draws - 1, 1) for draw in range(draws))
    alike = () if equal is None else (accuracy - equal,) * draws
    return Claim(head, cells, 0.8, 0.7, CutCheck(accuracy, cut, low, high, 64, 5.0, 0.75, (
        Control("random", random, 0.05, p_of(cut, random)),
        Control("equal weight", alike, 0.74 if alike else 0.2, p_of(cut, alike) if alike else float("nan"),
                "" if alike else "no other cells of these rows hold as much: 0.20 of what they move, the claimed 0.75"),
    )))  # fmt: skip


def p_of(cut: float, draws: Sequence[float]) -> float:
    """One-sided p of a cut among draws."""
    return (1 + sum(one <= cut for one in draws)) / (1 + len(draws))


CLAIMS = {
    ("softmax", 0): (
        claim("L0H1", "offset 1", cut=0.5, low=0.35, high=0.45, equal=0.3),
        claim("L1H0", "match +1", cut=0.895, low=-0.01, high=0.02),
    ),
    ("softmax", 1): (claim("L0H0", "offset 1", cut=0.89, low=0.001, high=0.02),),
    ("linear", 0): (),
}


def profile(layer: int, head: int, number: int, claims: Sequence[Claim] = ()) -> HeadProfile:
    """A head whose weights say which head it is, and which cells it is claimed to read."""
    base, name = 0.01 * (number + 1) + 0.1 * layer + 0.03 * head, f"L{layer}H{head}"
    held = {one.cells: {"moved": one.weight, "share": one.share} for one in claims if one.head == name}
    return HeadProfile(
        head=name,
        offsets={
            view: tuple(held.get(f"offset {d}", {}).get(view, base + 0.01 * d) for d in range(9))
            for view in ("share", "moved")
        },
        matches={
            view: tuple(held.get(f"match {d:+d}", {}).get(view, base / 2) for d in range(-1, 5))
            for view in ("share", "moved")
        },
        carries={
            view: tuple(held.get(f"carry {d}", {}).get(view, base / 3) for d in range(1, 5))
            for view in ("share", "moved")
        },
        first={"share": 0.2, "moved": 0.1},
        first_uniform=0.29,
        first_norm=1.2,
        row_mass=0.9,
        null_mass=0.1 if number else None,
        negative=0.0,
        support=3.5,
    )


def report(variant: str, seed: int, number: int, *, kind: str = "explicit") -> ModelReport:
    """One model."""
    return ModelReport(
        name=f"{variant}.8.0.01.{seed}", variant=variant, seed=seed, kind=kind, accuracy=Interval(0.9, 0.85, 0.95),
        n=64, state_size=STATE.get(variant, 1), parameters=1000,
        claims=CLAIMS.get((variant, seed), ()), heads=tuple(
            profile(layer, head, number, CLAIMS.get((variant, seed), ()))
            for layer in range(LAYERS)
            for head in range(HEADS)
        ),
        lengths={4: LengthScore(Interval(0.95, 0.9, 1.0)), 12: LengthScore(NOTHING, UNREAD)},
    )  # fmt: skip


REPORTS = tuple(report(variant, seed, number) for number, (variant, seed) in enumerate(CLAIMS))


def write_compare(
    root: Path, model: ModelRecord, *, reports: Sequence[ModelReport] = REPORTS, most: int | None = None
) -> Path:
    """A compare run; with ``most`` it is left unfinished after so many models."""
    config = {"models": ["softmax", "linear"], "examples": 64, "draws": 40, "lengths": [4, 12], "run": None}
    with RunWriter.create(
        root, kind="compare", model=model, config=config, command="headscope compare made-up", seed=0,
        planned=[*(one.name for one in reports), "summary"], card=None,
    ) as writer:  # fmt: skip
        for number, one in enumerate(reports[:most]):
            tensors = {
                "share": matrices(200 + number, (LAYERS, HEADS)), "moved": matrices(300 + number, (LAYERS, HEADS)),
                "tokens": np.arange(LENGTH) + 10, "targets": np.arange(LENGTH),
            }  # fmt: skip
            writer.save_record(one.name, asdict(one), tensors=tensors, seconds=0.1)
        if most is None:
            writer.save_record("summary", census_record(CompareRun(Run.open(writer.path, verify=False))), seconds=0.0)
    return next(root.glob(f"{writer.path.name.removesuffix('.tmp')}*"))
