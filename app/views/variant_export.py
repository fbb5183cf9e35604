"""The rows of a train or compare run for other programs: trainings, evaluations, claims, heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from app.views import training, variant_comparison
from app.views.mixing import pictured_models, tokens_of
from app.views.table import Table
from app.views.training import TrainRun
from app.views.training_measures import measure_table
from app.views.training_tables import best_table, cell_table, curve_table, length_table, model_table
from app.views.variant_census import role_table
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import claim_table
from app.views.variant_profiles import compared_rows, profile_table, trained_rows
from headscope.errors import ConfigError
from headscope.runs.reading import Run

What = Literal["cells", "rates", "curves", "measures", "profiles", "claims", "census", "models", "lengths"]


def _trained_profiles(found: TrainRun) -> Table:
    """A row for each head of each training, at every evaluation."""
    rows = [
        row
        for one in pictured_models(found)
        for shot in found.snapshots(one.name)
        for row in trained_rows(one.name, one.label, shot, len(tokens_of(found.run, one.name)) or None)
    ]
    if not rows:
        raise ConfigError(
            f"the run {found.run.manifest.id} looked at no heads while it trained: train with --pictures 8, or compare "
            "the trained models (headscope compare ... --run latest)."
        )
    return profile_table(rows)


_OF_TRAIN: Mapping[str, Callable[[TrainRun], Table]] = {
    "cells": cell_table,
    "rates": best_table,
    "curves": curve_table,
    "profiles": _trained_profiles,
    "measures": measure_table,
}
_OF_COMPARE: Mapping[str, Callable[[CompareRun], Table]] = {
    "claims": claim_table,
    "census": role_table,
    "profiles": lambda found: profile_table(compared_rows(found)),
    "models": model_table,
    "lengths": length_table,
}


def first_rows(run: Run) -> What | None:
    """What such a run gives where nothing is asked for; None for runs of another kind."""
    return {training.KIND: "cells", variant_comparison.KIND: "claims"}.get(run.manifest.kind)  # type: ignore[return-value]


def rows_of(run: Run, what: str) -> Table:
    """The rows, of the stages that are in.

    Raises:
        ConfigError: if a run of this kind has no such rows.
        RunError: if it is damaged.
    """
    kind = run.manifest.kind
    known = {training.KIND: _OF_TRAIN, variant_comparison.KIND: _OF_COMPARE}.get(kind, {})
    if what not in known:
        has = f"it has {', '.join(known)}" if known else "those are of train and compare runs: leave out --what"
        raise ConfigError(f"the run {run.manifest.id} is of the kind {kind!r} and has no {what}; {has}.")
    if kind == training.KIND:
        return _OF_TRAIN[what](TrainRun(run))
    return _OF_COMPARE[what](CompareRun(run))
