"""The arms of a policies or calibrate run as files for other programs: a row per arm and task or data set."""

from __future__ import annotations

from typing import Any

from app.views import calibration, policies
from app.views.calibration import CalibrationRun
from app.views.calibration_tables import effect_table
from app.views.policies import PolicyRun
from app.views.policy_tables import arm_table
from app.views.table import Cell, Column, Table
from headscope.errors import ConfigError
from headscope.runs.reading import Run

_KINDS = (policies.KIND, calibration.KIND)
_PLACE = (
    Column("task", "Task"),
    Column("length", "Length", meaning="tokens of each prompt, as asked"),
    Column("measure", "Measure", meaning="what mean, low and high are of"),
)


def has_arms(run: Run) -> bool:
    """Whether a run compares arms: policies, or calibrated heads and their controls."""
    return run.manifest.kind in _KINDS


def arms_of(run: Run) -> Table:
    """A row per arm and task (policies) or data set (calibrate), of the stages that are in.

    Raises:
        ConfigError: if the run is of another kind.
        RunError: if it is damaged.
    """
    kind = run.manifest.kind
    if kind == calibration.KIND:
        return effect_table(CalibrationRun(run))
    if kind != policies.KIND:
        raise ConfigError(
            f"the run {run.manifest.id} is of the kind {kind!r} and has no arms: those are of {' and '.join(_KINDS)} "
            "runs. Leave out --what."
        )
    return _policy_arms(PolicyRun(run))


def _policy_arms(found: PolicyRun) -> Table:
    """The arms of every task and length below each other."""
    columns, rows, meta = tuple[Column, ...](), list[tuple[Cell, ...]](), dict[str, Any]()
    for task in found.tasks:
        for length in found.lengths(task):
            one = arm_table(found, task, length)
            place = (task, length, str(one.meta["measure"]))
            rows += [(*place, *row) for row in one.rows]
            columns, meta = one.columns, dict(one.meta)
    kept = {name: value for name, value in meta.items() if name not in ("task", "length", "measure")}
    return Table("Arms", (*_PLACE, *columns), tuple(rows), kept)
