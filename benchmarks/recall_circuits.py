"""By which circuit small models recall: cells of each layer cut, over seeds.

    headscope train mqar --variants softmax,relu ... --seeds 10 --out runs        (study `circuits`)
    python -m benchmarks.recall_circuits runs/<train run> [--examples 256]

Two layers of one head can find the value of a key in more ways than one. They differ in what layer 0 reads:

- *carry 1*: the row behind each key, its value's, reads the key; layer 1 finds that row (*match +1*);
- *carry 2*: the row two behind each key does; layer 1 finds that one (*match +2*);
- *same key*: the row of the question reads the earlier same key, and learns where it stood;
- *other keys*: the row of the question reads all keys but its own, and learns where they stood.

Each kind of cells is cut alone (set to 0 in M, rows not divided again), and beside it as many random cells of the same
rows, and others of equal weight (`circuits.cell_controls`), 19 draws of each. A model has a circuit if its cut costs
0.25 or more of the accuracy, and more than every random draw. Models recall if they have 0.9 or more on fresh examples;
each variant is taken at its best rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from app.train_run import results_of
from circuits.cell_cuts import Cells, Judge, carry_cells, check_cells, match_cells
from circuits.comparison_results import CutCheck
from headscope.heads import Head
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import read_mixing
from headscope.runs import Run
from headscope.statistics import bootstrap_scalar
from headscope.tasks.synthetic import SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task
from headscope.training.sweep import CellResult, SweepConfig, best_rates

_RECALLS, _COSTS, _DRAWS, _SEED = 0.9, 0.25, 19, 5_000_011


def other_keys(rows: Int[Tensor, "B N"], columns: Int[Tensor, "B N"]) -> Cells:
    """From every question to the keys that are not asked for in it."""
    n = rows.shape[1]
    each, all_keys = rows.repeat_interleave(n, 1), columns.repeat(1, n)
    return Cells(each, all_keys, all_keys != columns.repeat_interleave(n, 1))


_CUTS: dict[str, tuple[int, Callable[[Tensor, Tensor], Cells]]] = {
    "carry 1": (0, lambda rows, columns: carry_cells(rows, columns, 1)),
    "carry 2": (0, lambda rows, columns: carry_cells(rows, columns, 2)),
    "same key": (0, lambda rows, columns: match_cells(rows, columns, 0)),
    "other keys": (0, other_keys),
    "match +1": (1, lambda rows, columns: match_cells(rows, columns, 1)),
    "match +2": (1, lambda rows, columns: match_cells(rows, columns, 2)),
}
_FIRST = [name for name, (layer, _) in _CUTS.items() if layer == 0]


@dataclass(frozen=True)
class Dissected:
    """A training and what each cut costs it; no cuts where it does not recall."""

    trained: CellResult
    cuts: dict[str, CutCheck]

    @property
    def circuit(self) -> str:
        """The kind of cells of layer 0 that it needs most, or none of them."""
        needed = {name: self.cuts[name].drop for name in _FIRST if _is_needed(self.cuts[name])}
        return max(needed, key=lambda name: needed[name]) if needed else "none of these"


def _is_needed(cut: CutCheck) -> bool:
    random = cut.control("random")
    return cut.drop >= _COSTS and cut.cut < min(random.accuracies)


def main() -> None:
    """Print a row for each variant, then one for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=256)
    asked = parser.parse_args()
    run = Run.open(asked.run)
    sweep = SweepConfig.parse(run.manifest.config)
    task = make_task(sweep.task, **sweep.task_settings).held_out
    batch = task.batch(asked.examples, torch.Generator().manual_seed(_SEED))
    results = results_of(run)
    rates = {row.variant: row.rate for row in best_rates(results)}
    found: dict[str, list[Dissected]] = {}
    for one in results:
        if one.cell.rate == rates[one.cell.variant]:
            cuts = cuts_of(_model(run, one), batch, task.scored) if one.accuracy >= _RECALLS else {}
            found.setdefault(one.cell.variant, []).append(Dissected(one, cuts))
    _print(found)


def _model(run: Run, one: CellResult) -> Decoder:
    model = Decoder(DecoderConfig.parse(run.record(one.cell.stage)["decoder"]))
    parts = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(run.tensor(one.cell.stage, f"weights.{name}")) for name in parts})
    return model.eval()


def cuts_of(model: Decoder, batch: SyntheticBatch, judge: Judge) -> dict[str, CutCheck]:
    """Every kind of cells cut alone."""
    layers = read_mixing(model, batch.given)
    return {
        name: check_cells(
            model,
            batch,
            layers[layer],
            Head(layer, 0),
            cells(batch.marks["query"], batch.marks["key"]),
            judge=judge,
            generator=torch.Generator().manual_seed(_SEED),
            draws=_DRAWS,
        )
        for name, (layer, cells) in _CUTS.items()
    }


def _print(found: dict[str, list[Dissected]]) -> None:
    kinds = [*_FIRST, "none of these"]
    print("| variant | rate | recall | " + " | ".join(kinds) + " |", "|" + " --- |" * (3 + len(kinds)), sep="\n")
    for variant, rows in found.items():
        done = [row for row in rows if row.cuts]
        counts = " | ".join(_count([row for row in done if row.circuit == kind], kind) for kind in kinds)
        print(f"| {variant} | {rows[0].trained.cell.rate:g} | {len(done)} of {len(rows)} | {counts} |")
    print("\n| variant | seed | accuracy | " + " | ".join(_CUTS) + " | circuit |", "|" + " --- |" * 10, sep="\n")
    for variant, rows in found.items():
        for row in rows:
            cells = " | ".join(_cell(row.cuts[name]) if row.cuts else "" for name in _CUTS)
            circuit = row.circuit if row.cuts else ""
            print(f"| {variant} | {row.trained.cell.seed} | {row.trained.accuracy:.3f} | {cells} | {circuit} |")


def _count(rows: list[Dissected], kind: str) -> str:
    if not rows:
        return "0"
    if kind not in _FIRST:
        return str(len(rows))
    drops = bootstrap_scalar(np.array([row.cuts[kind].drop for row in rows]), generator=np.random.default_rng(0))
    ends = f" [{drops.low:.2f}, {drops.high:.2f}]" if len(rows) > 1 else ""
    return f"{len(rows)}: {drops.mean:.2f}{ends}"


def _cell(cut: CutCheck) -> str:
    """The drop, then those of the controls."""
    random, equal = (cut.accuracy - cut.control(name).mean for name in ("random", "equal weight"))
    return f"{cut.drop:.2f} ({random:.2f}{f', {equal:.2f}' if np.isfinite(equal) else ''})"


if __name__ == "__main__":
    main()
