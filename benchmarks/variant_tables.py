"""Markdown tables of train runs.

    python -m benchmarks.variant_tables runs/<train run> ...

A row is a variant at one width and its best rate: accuracy on fresh examples, mean over seeds and each seed, how many
seeds reached the accuracy that ends a training, and the median of their steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from app.train_run import results_of
from headscope.runs import Run
from headscope.training.sweep import VariantResult, best_rates

_COLUMNS = ("variant", "d_model", "rate", "accuracy", "seeds", "solved", "steps", "state", "parameters")


def main(paths: list[str]) -> None:
    """Print a table for every run."""
    for path in paths:
        run = Run.open(Path(path))
        print(_title(run.manifest.config), "", sep="\n")
        print("| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS), sep="\n")
        for row in best_rates(results_of(run)):
            print("| " + " | ".join(_cells(row)) + " |")
        print()


def _title(config: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in config["task_settings"].items())
    decoder = ", ".join(f"{name} {value}" for name, value in config["decoder"].items())
    return f"`{config['task']}` ({settings}); {config['layers']} layers of {config['heads']} heads; {decoder}"


def _cells(row: VariantResult) -> list[str]:
    return [
        row.variant,
        str(row.width),
        f"{row.rate:g}",
        f"{row.accuracy.mean:.3f}",
        " ".join(f"{one:.3f}" for one in row.accuracies),
        f"{row.solved}/{len(row.accuracies)}",
        "" if row.steps is None else f"{row.steps:,.0f}",
        f"{row.state_size:,}",
        f"{row.parameters:,}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
