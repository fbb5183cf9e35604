"""Are sinks needed? The loss by domain with the mass on sinks taken away, shared out or moved to the other keys.

    python -m benchmarks.sinks_needed --length 512 --examples 8 --out sinks_needed.json

Later sinks are columns above alpha / n that at least a fifth of the rows so far have seen: without that, by the
published rule, every token of the newest fifth that got one row's attention is a sink.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import headscope.models
from circuits.policies.evaluation import evaluate, policy_of
from circuits.policies.results import Arm
from circuits.policies.tasks import TEXTS, build_task
from probes.probe import Bench
from probes.settings import ProbeConfig


def arms() -> list[Arm]:
    """Every kind of sink, every way to take it away; other softmaxes beside them."""
    made = [
        Arm("sink-removal", {"which": which, "how": how, "least_share": 0.2}, f"{which} sinks: {how}")
        for which in ("first", "later", "dormant")
        for how in ("remove", "renormalise", "share")
    ]
    return [*made, Arm("off-by-one", curve="off-by-one softmax"), Arm("sigmoid", curve="sigmoid")]


def main() -> None:
    """Run, print a line per arm and domain, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    bench = Bench(headscope.models.load(asked.model, device=asked.device), ProbeConfig())
    rows = list[dict[str, object]]()
    for task in TEXTS:
        batch = build_task(bench, task, length=asked.length, n=asked.examples)
        full = None
        for arm in (Arm("full", curve="full"), *arms()):
            policy = policy_of(bench.model, arm, length=asked.length)
            found = evaluate(bench.model, arm, batch, task=task, policy=policy)
            full = found if full is None else full
            change = found.change(full)
            rows.append(
                {
                    "task": task,
                    "arm": arm.curve,
                    "loss": float(np.mean(found.values)),
                    "change": list(change),
                    "n": found.n,
                }
            )
            print(
                f"{task:9s} {arm.curve:28s} {found.values.mean():.3f}  "
                f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]  n {found.n}",
                flush=True,
            )
            asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
