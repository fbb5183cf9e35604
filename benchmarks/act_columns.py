"""Is it the sinks that ACT weakens, or would other columns do? Heads chosen the same way, on the same items.

    python -m benchmarks.act_columns --sets sentiment,topic --seeds 1 --out act_columns.json

Three rules, each with 16 heads of its own by first order and its own test answers: sinks as published; sinks that at
least a fifth of the rows have seen (tokens near the end of the prompt are sinks by the published rule once one row
looks at them); and as many scattered columns that are no sinks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import headscope.models
from app.calibrate_config import CalibrateConfig
from app.calibrate_run import parts_of
from circuits.calibration.head_selection import select_heads
from circuits.calibration.judges import InContextJudge
from circuits.calibration.results import Arm
from circuits.calibration.trial import compare, run_arm
from circuits.policies.settings import ActSettings

RULES = {
    "sinks": ActSettings(),
    "sinks seen by a fifth": ActSettings(least_share=0.2),
    "other columns": ActSettings(columns="others"),
}


def main() -> None:
    """Run, print a line per rule, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sets", default="sentiment,topic,subjectivity,question-type")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--select", type=int, default=120)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    model, rows = headscope.models.load(asked.model, device=asked.device), list[dict[str, object]]()
    for name in asked.sets.split(","):
        for seed in range(asked.seeds):
            config = CalibrateConfig(model=asked.model, sets=(name,), select=asked.select, test=asked.test)
            parts = parts_of(model, name, config, seed)
            select, test = InContextJudge(parts.select), InContextJudge(parts.test)
            baseline = run_arm(model, test, Arm("baseline", "baseline", (), 1.0), config.trial)
            for rule, act in RULES.items():
                start = time.perf_counter()
                trial = config.model_copy(update={"act": act}).trial
                chosen = select_heads(model, select, trial.calibration).heads
                arm = Arm(rule, "selected", chosen, act.beta)
                found = compare(arm, run_arm(model, test, arm, trial), baseline)
                rows.append(
                    {
                        "set": name,
                        "seed": seed,
                        "rule": rule,
                        "heads": [str(head) for head in chosen],
                        "baseline": baseline.accuracy,
                        "accuracy": found.answers.accuracy,
                        "change": list(found.change),
                        "margin": list(found.margin_change),
                        "p": found.p_value,
                        "n": found.n,
                    }
                )
                change = f"{found.change.mean:+.3f} [{found.change.low:+.3f}, {found.change.high:+.3f}]"
                print(
                    f"{name:14s} {seed} {rule:22s} {baseline.accuracy:.3f} -> {found.answers.accuracy:.3f}  {change}  "
                    f"p {found.p_value:.3f}  {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
                asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
