"""The tables of a train run and of a compare run: what their page exports, and the sentences above them."""

from __future__ import annotations

import math

from app.views.numbers import fixed, interval
from app.views.table import Column, Table
from app.views.training import TrainRun
from app.views.variant_comparison import CompareRun
from circuits.comparison_results import LengthScore
from headscope.runs.reading import Run
from headscope.training.sweep import VariantResult

_RESULT = (
    Column("accuracy", "Accuracy", 3, "on fresh examples, share of right answers"),
    Column("held_out", "Held-out accuracy", 3, "on the examples that choose the rate and end the training"),
)
_SIZES = (
    Column("state_size", "State", meaning="numbers kept after a text of the task to read one more token, all layers"),
    Column("parameters", "Parameters", meaning="trained numbers"),
)
RATE_RULE = (
    "Best rate: the highest held-out accuracy, mean over seeds; the accuracy shown is on fresh examples, which decided "
    "nothing."
)


def best_table(found: TrainRun) -> Table:
    """A row for each variant and width: its best rate, over seeds."""
    rates = sorted({rate for one in found.best for rate in one.rates})
    columns = (
        Column("variant", "Variant"),
        Column("width", "Width", meaning="d_model"),
        Column("rate", "Best rate", meaning="learning rate"),
        Column("accuracy", "Accuracy", 3, "on fresh examples, mean over seeds"),
        Column("low", "Low", 3, "lower end of the 95 % bootstrap interval over seeds"),
        Column("high", "High", 3, "upper end"),
        Column("seeds", "Seeds", meaning="trainings at this rate"),
        Column("solved", "Solved", meaning="seeds that reached the accuracy that ends a training"),
        Column("steps", "Steps", 0, "median steps of the seeds that solved it"),
        *_SIZES,
        *(Column(f"rate_{rate:g}", f"Rate {rate:g}", 3, "held-out accuracy, mean over seeds") for rate in rates),
    )
    rows = tuple(
        (
            one.variant, one.width, one.rate, one.accuracy.mean, one.accuracy.low, one.accuracy.high,
            len(one.accuracies), one.solved, one.steps, one.state_size, one.parameters,
            *(one.rates.get(rate) for rate in rates),
        )
        for one in found.best
    )  # fmt: skip
    return Table("Best rates", columns, rows, {"rule": RATE_RULE, "task": found.task})


def cell_table(found: TrainRun) -> Table:
    """A row for each training."""
    columns = (
        Column("training", "Training", meaning="its name in the run"),
        Column("variant", "Variant"),
        Column("width", "Width", meaning="d_model"),
        Column("rate", "Rate", meaning="learning rate"),
        Column("seed", "Seed"),
        *_RESULT,
        Column("loss", "Loss", 3, "held out, at the end, nats per answer"),
        Column("solved_at", "Solved at", meaning="steps until the accuracy that ends a training; empty if never"),
        Column("steps", "Steps", meaning="taken"),
        Column("diverged", "Diverged", meaning="whether a loss was no number"),
        *_SIZES,
        Column("seconds", "Seconds", 1, "of training"),
    )
    rows = tuple(
        (
            one.cell.stage, one.cell.variant, one.cell.width, one.cell.rate, one.cell.seed, one.result.accuracy,
            one.result.held_out, one.result.loss, one.result.solved_at, one.result.steps, one.result.diverged,
            one.result.state_size, one.result.parameters, one.seconds,
        )
        for one in found.trained
    )  # fmt: skip
    return Table("Trainings", columns, rows, {"task": found.task})


def curve_table(found: TrainRun) -> Table:
    """A row for each evaluation of each training."""
    columns = (
        Column("training", "Training"), Column("variant", "Variant"), Column("width", "Width"),
        Column("rate", "Rate"), Column("seed", "Seed"), Column("step", "Step", meaning="steps taken before"),
        Column("accuracy", "Accuracy", 3, "held out"), Column("loss", "Loss", 3, "held out, nats per answer"),
    )  # fmt: skip
    rows = tuple(
        (one.cell.stage, one.cell.variant, one.cell.width, one.cell.rate, one.cell.seed, point.step, point.accuracy,
         point.loss)
        for one in found.trained
        for point in one.curve
    )  # fmt: skip
    return Table("Evaluations", columns, rows, {"task": found.task})


def model_table(found: CompareRun) -> Table:
    """A row for each model of a comparison."""
    columns = (
        Column("model", "Model"),
        Column("name", "Name in the run"),
        Column("variant", "Variant"),
        Column("seed", "Seed"),
        Column("kind", "M", meaning="how its mixing matrix comes about"),
        Column("accuracy", "Accuracy", 3, "on fresh examples, share of right answers"),
        Column("low", "Low", 3, "lower end of the 95 % bootstrap interval over examples"),
        Column("high", "High", 3, "upper end"),
        Column("n", "n", meaning="examples"),
        *_SIZES,
    )
    rows = tuple(
        (found.label(one), one.name, one.variant, one.seed, one.kind, *one.accuracy, one.n, one.state_size,
         one.parameters)
        for one in found.models
    )  # fmt: skip
    return Table("Models", columns, rows)


def length_table(found: CompareRun) -> Table:
    """A row for each model and length of the text, the task's own among them."""
    columns = (
        Column("model", "Model"), Column("variant", "Variant"), Column("seed", "Seed"),
        Column("length", "Length", meaning="tokens of the text"),
        Column("accuracy", "Accuracy", 3, "empty where there is none; the last column says why"),
        Column("low", "Low", 3, "lower end of the 95 % bootstrap interval over examples"),
        Column("high", "High", 3, "upper end"), Column("n", "n", meaning="examples"),
        Column("trained", "Trained on", meaning="whether it is the length of its training"),
        Column("reason", "Why there is none", meaning="why the model or the task has no text of this length"),
    )  # fmt: skip
    rows = [
        (
            found.label(one),
            one.variant,
            one.seed,
            length,
            *score.accuracy,
            None if score.reason else one.n,
            length == found.length,
            score.reason,
        )
        for one in found.models
        for length, score in lengths_of(found, one.name)
    ]
    return Table("Accuracy by length", columns, tuple(rows))


def lengths_of(found: CompareRun, name: str) -> list[tuple[int, LengthScore]]:
    """A model's accuracy at each length, short to long, with that of the task's own length where it is known."""
    model = next(one for one in found.models if one.name == name)
    known = dict(model.lengths) | ({found.length: LengthScore(model.accuracy)} if found.length is not None else {})
    return sorted(known.items())


def best_text(one: VariantResult) -> str:
    """``0.996 [0.993, 0.998], 3 of 3 seeds solved``."""
    return f"{accuracy_text(one)}, {one.solved} of {len(one.accuracies)} seeds solved"


def accuracy_text(one: VariantResult) -> str:
    """The accuracy with its interval over seeds; with one seed there is none, and it says so."""
    if math.isnan(one.accuracy.low):
        return f"{fixed(one.accuracy.mean)} (1 seed, no interval)"
    return f"{fixed(one.accuracy.mean)} {interval(one.accuracy.low, one.accuracy.high)}"


def train_lead(run: Run) -> str:
    """What a train run set out to do, in a sentence."""
    config = run.manifest.config
    return (
        f"{counted(len(config.get('variants', ())), 'attention variant')} trained on {config.get('task')}: "
        f"{counted(len(config.get('widths', ())), 'width')}, {counted(len(config.get('rates', ())), 'learning rate')}, "
        f"{counted(int(config.get('seeds', 1)), 'seed')}, at most {config.get('steps')} steps."
    )


def training_finding(found: TrainRun) -> str:
    """What the run found, in a sentence or two: who solved the task, who did not."""
    if not found.best:
        return ""
    width = found.widths[-1]
    own = [one for one in found.best if one.width == width]
    always = [one.variant for one in own if one.solved == len(one.accuracies)]
    some = [
        f"{one.variant} ({one.solved} of {len(one.accuracies)})" for one in own if 0 < one.solved < len(one.accuracies)
    ]
    never = [one.variant for one in own if not one.solved]
    stop = found.config.get("stop_at", 0.99)
    at = f", width {width}" if len(found.widths) > 1 else ""
    told = [
        text
        for text in (
            f"solved with every seed: {_names(always)}" if always else "",
            f"with some seeds: {_names(some)}" if some else "",
            f"with no seed within {found.config.get('steps', '?')} steps: {_names(never)}" if never else "",
        )
        if text
    ]
    return f"{found.task}{at}, at the best of its rates, held-out accuracy of {stop:g} or more: {'; '.join(told)}."


def _names(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(number: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
