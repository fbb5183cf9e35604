"""What a policies run has measured, read from its records."""

from __future__ import annotations

from circuits.policies.results import Outcome
from headscope.errors import RunError
from headscope.runs.reading import Run

_HEADS = "heads"


def stage_outcomes(run: Run) -> dict[tuple[str, int], list[Outcome]]:
    """Everything that a policies run has measured, by task and the length that was asked for.

    Raises:
        RunError: if a record does not hold what it should.
    """
    found = dict[tuple[str, int], list[Outcome]]()
    for stage in run.records:
        if stage.startswith(f"{_HEADS}."):
            continue
        try:
            task, length, _ = stage.split(".")
            for number, record in enumerate(run.record(stage)["outcomes"]):
                outcome = Outcome.from_record(record, run.tensor(stage, f"values{number}"))
                found.setdefault((task, int(length)), []).append(outcome)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None
    return found
