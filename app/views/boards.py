"""The scoreboards of a run, whichever kind of run has them."""

from __future__ import annotations

from app.lab_run import KIND as LAB
from app.views import benchmark, calibration, circuit, policies, training, variant_comparison
from app.views.benchmark import Benchmark, bench_tables
from app.views.calibration import CalibrationRun
from app.views.calibration_tables import calibration_tables
from app.views.circuit import CircuitRun
from app.views.lab_text import lab_tables
from app.views.policies import PolicyRun
from app.views.policy_text_tables import policy_tables
from app.views.scoreboard import circuit_tables
from app.views.tables import TextTable
from app.views.training import TrainRun
from app.views.variant_comparison import CompareRun
from app.views.variant_text_tables import comparison_texts, training_texts
from headscope.runs.reading import Run


def board_tables(run: Run) -> list[TextTable]:
    """The tables of a circuit run, a benchmark of circuit methods, a policies, calibrate, train, compare or lab run.

    None for other kinds.
    """
    kind = run.manifest.kind
    if kind == circuit.KIND:
        return circuit_tables(CircuitRun(run))
    if kind == policies.KIND:
        return policy_tables(PolicyRun(run))
    if kind == calibration.KIND:
        return calibration_tables(CalibrationRun(run))
    if kind == training.KIND:
        return training_texts(TrainRun(run))
    if kind == variant_comparison.KIND:
        return comparison_texts(CompareRun(run))
    if kind == LAB:
        return lab_tables(run)
    return bench_tables(Benchmark(run)) if kind == benchmark.KIND else []
