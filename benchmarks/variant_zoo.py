"""Makes the checkpoints that come with Headscope from train runs: every seed of every variant's best rate.

    headscope train mqar --variants softmax,... --rates 0.003,0.01 --seeds 3 ... --out runs
    python -m benchmarks.variant_zoo runs/<train run> [runs/<another>]

Weights become bfloat16; the accuracy in the index is that of the rounded weights, on examples nothing else has seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from app.train_run import SUMMARY
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.saving import load_decoder, save_decoder
from headscope.runs import Run
from headscope.tasks.synthetic_catalog import make_task
from headscope.training.sweep import Cell, SweepConfig

ZOO = Path(__file__).parents[1] / "headscope" / "models" / "zoo"
_EXAMPLES = 512
_SEED = 9_000_011
"""Of the examples that rounded weights are measured on."""


def main(paths: list[str]) -> None:
    """Write the files and the index; those of other tasks stay."""
    index = ZOO / "index.json"
    rows = {row["name"]: row for row in json.loads(index.read_text(encoding="utf-8"))["checkpoints"]}
    for path in paths:
        for row in _ship(Run.open(Path(path))):
            rows[row["name"]] = row
            print(f"{row['name']}: {row['accuracy']:.3f}")
    text = ",\n".join(json.dumps(rows[name]) for name in sorted(rows))
    index.write_text('{"checkpoints": [\n' + text + "\n]}\n", encoding="utf-8", newline="\n")
    size = sum(file.stat().st_size for file in ZOO.iterdir())
    print(f"{len(rows)} checkpoints, {size / 2**20:.1f} MB")


def _ship(run: Run) -> list[dict[str, Any]]:
    sweep = SweepConfig.parse(run.manifest.config)
    best = {row["variant"]: row["rate"] for row in run.record(SUMMARY)["variants"]}
    return [_checkpoint(run, sweep, cell) for cell in sweep.cells if cell.rate == best[cell.variant]]


def _checkpoint(run: Run, sweep: SweepConfig, cell: Cell) -> dict[str, Any]:
    record, name = run.record(cell.stage), f"{sweep.task}.{cell.variant}.{cell.seed}"
    model = Decoder(DecoderConfig.parse(record["decoder"]))
    weights = {part: torch.from_numpy(run.tensor(cell.stage, f"weights.{part}")) for part in model.state_dict()}
    model.load_state_dict(weights)
    rounded = load_decoder(save_decoder(model, ZOO / f"{name}.safetensors", bf16=True))
    return {
        "name": name,
        "task": sweep.task,
        "task_settings": sweep.task_settings,
        "variant": cell.variant,
        "seed": cell.seed,
        "rate": cell.rate,
        "steps": record["steps"],
        "accuracy": round(_accuracy(rounded, sweep), 4),
        "curve": [[point["step"], round(point["accuracy"], 4)] for point in record["curve"]],
    }


def _accuracy(model: Decoder, sweep: SweepConfig) -> float:
    task = make_task(sweep.task, **sweep.task_settings).held_out
    batch = task.batch(_EXAMPLES, torch.Generator().manual_seed(_SEED))
    with torch.no_grad():
        return task.accuracy(model(batch.given), batch)


if __name__ == "__main__":
    main(sys.argv[1:])
