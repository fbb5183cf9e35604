"""`headscope` as a job's command with nothing measured: ready in half a second, where torch alone takes several.

The command line, its errors, the progress, the run and what a signal does to it are the real ones; in place of
`app.scoring` this file makes up the numbers. The last stage of a run lasts as long as there is a file `HOLD` in the
folder of runs, so that a test need not guess how long it takes to look at a job. The real command as a job, stopped
and resumed to the same numbers, is in tests/test_jobs_score.py.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np

from app.cli import main
from app.progress import Progress
from app.score_config import ScoreConfig
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import ModelRecord, RunWriter

PROGRAM = (sys.executable, "-P", str(Path(__file__).absolute()))
HOLD = "hold"
STEP_S, MOST_STEPS = 0.05, 2000


def run_scores(config: ScoreConfig, *, root: Path, command: str, listener: Progress) -> Path:
    """In place of `app.scoring.run_scores`."""
    listener.stage("load", 0, 0)
    writer = RunWriter.create(
        root,
        kind="score",
        model=ModelRecord(
            name=config.model,
            source="nowhere: made up",
            n_layers=1,
            n_heads=2,
            n_kv_heads=1,
            d_head=8,
            d_model=16,
            n_ctx=128,
        ),
        config=config.model_dump(mode="json"),
        command=command,
        seed=config.seed,
        planned=config.probes,
        card=None,
    )
    with writer:
        return _work(writer, listener)


def resume_scores(path: Path, *, listener: Progress) -> Path:
    """In place of `app.scoring.resume_scores`."""
    with RunWriter.resume(path) as writer:
        return _work(writer, listener)


def _work(writer: RunWriter, listener: Progress) -> Path:
    listener.opened(writer.path)
    planned = writer.manifest.planned
    for index, stage in enumerate(planned, 1):
        if writer.has(stage):
            continue
        listener.stage(stage, index, len(planned))
        for step in itertools.count(1):
            listener.step(min(step, MOST_STEPS), MOST_STEPS)
            time.sleep(STEP_S)
            if index < len(planned) or step == MOST_STEPS or not (writer.path.parent / HOLD).exists():
                break
        writer.save_scores(stage, [_made_up(stage, writer.manifest.model)], seconds=STEP_S)
    return writer.finish(peak_memory_bytes=None)


def _made_up(stage: str, model: ModelRecord) -> HeadScores:
    definition = ScoreDefinition(stage, stage, "share", "none", "nowhere", "0 to 1", stage, 0.4, stage)
    values = np.array([[0.9, 0.1]])
    return HeadScores(definition, model.name, values, values, values, np.full((1, 2), 4), model.n_kv_heads)


if __name__ == "__main__":
    sys.modules["app.scoring"] = sys.modules[__name__]
    main()
