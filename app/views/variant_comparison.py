"""A compare run as its pages read it: models with different mixers, their heads, claims and accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

from circuits.comparison_results import (
    CONTROLS,
    Claim,
    Control,
    CutCheck,
    HeadProfile,
    LengthScore,
    ModelReport,
)
from headscope.errors import HeadscopeError, RunError, UnsupportedError
from headscope.runs.reading import Run
from headscope.statistics import Interval

KIND, SUMMARY = "compare", "summary"
CELLS_MEANING = (
    "offset d: d places before; carry d: the same, on rows d behind the earlier same token; "
    "match d: d behind that token"
)


class CompareRun:
    """A run of kind ``compare``, whole or unfinished."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(
                f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}: no models were compared in it."
            )
        self.run = run

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.run.manifest.config

    @property
    def planned(self) -> int:
        """Models that were asked for."""
        return sum(stage != SUMMARY for stage in self.run.manifest.planned)

    @cached_property
    def models(self) -> tuple[ModelReport, ...]:
        """Every model that is in, in the order of the run.

        Raises:
            RunError: if a record does not hold what it should.
        """
        known = set(self.run.records) - {SUMMARY}
        return tuple(_report(self.run, stage) for stage in self.run.manifest.planned if stage in known)

    @property
    def variants(self) -> dict[str, tuple[ModelReport, ...]]:
        """The models of each variant."""
        names = dict.fromkeys(one.variant for one in self.models)
        return {name: tuple(one for one in self.models if one.variant == name) for name in names}

    @cached_property
    def length(self) -> int | None:
        """Tokens of the text that is pictured, which is the task's length; None where its inputs are no tokens."""
        try:
            return len(self.run.tensor(self.models[0].name, "tokens")) if self.models else None
        except HeadscopeError:
            return None

    def label(self, model: ModelReport) -> str:
        """A model for people: ``softmax, seed 0``; its name besides where two would be called so."""
        same = sum((one.variant, one.seed) == (model.variant, model.seed) for one in self.models)
        return f"{model.variant}, seed {model.seed}" + (f" ({model.name})" if same > 1 else "")


def _report(run: Run, stage: str) -> ModelReport:
    record = run.record(stage)
    try:
        return ModelReport(
            name=stage,
            variant=str(record["variant"]),
            seed=int(record["seed"]),
            kind=str(record["kind"]),
            accuracy=_interval(record["accuracy"]),
            n=int(record["n"]),
            state_size=int(record["state_size"]),
            parameters=int(record["parameters"]),
            heads=tuple(_profile(head) for head in record["heads"]),
            claims=tuple(_claim(claim) for claim in record["claims"]),
            lengths={int(length): _length(value) for length, value in record["lengths"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None


def _interval(given: Any) -> Interval:
    value, low, high = (float(part) for part in given)
    return Interval(value, low, high)


def _profile(given: Mapping[str, Any]) -> HeadProfile:
    numbers = {name: float(given[name]) for name in ("first_uniform", "first_norm", "row_mass", "negative", "support")}
    return HeadProfile(
        head=str(given["head"]),
        offsets={view: tuple(map(float, values)) for view, values in given["offsets"].items()},
        matches={view: tuple(map(float, values)) for view, values in given["matches"].items()},
        carries={view: tuple(map(float, values)) for view, values in given.get("carries", {}).items()},
        first={view: float(value) for view, value in given["first"].items()},
        null_mass=_maybe(given.get("null_mass")),
        usage=_maybe(given.get("usage")),
        carries_uniform=tuple(map(float, given.get("carries_uniform", ()))),
        **numbers,
    )


def _maybe(given: Any) -> float | None:
    return None if given is None else float(given)


def _length(given: Any) -> LengthScore:
    """Accuracy and reason; the first runs have the interval alone."""
    if isinstance(given, Mapping):
        held = cast("Mapping[str, Any]", given)
        return LengthScore(_interval(held["accuracy"]), str(held["reason"]))
    found = _interval(given)
    return LengthScore(found, "this run does not say why" if math.isnan(found.mean) else "")


def _claim(given: Mapping[str, Any]) -> Claim:
    return Claim(
        head=str(given["head"]),
        cells=str(given["cells"]),
        weight=float(given["weight"]),
        share=float(given["share"]),
        check=_check(given["check"]) if "check" in given else _first_check(given),
    )


def _check(given: Mapping[str, Any]) -> CutCheck:
    return CutCheck(
        n=int(given["n"]),
        controls=tuple(_control(control) for control in given["controls"]),
        **{name: float(given[name]) for name in ("accuracy", "cut", "low", "high", "cells", "weight")},
    )


def _control(given: Mapping[str, Any]) -> Control:
    name = str(given["name"])
    if name not in CONTROLS:
        raise ValueError(f"no control is called {name!r}")
    return Control(
        name=name,
        accuracies=tuple(map(float, given["accuracies"])),
        weight=float(given["weight"]),
        p_value=float(given["p_value"]),
        note=str(given["note"]),
    )


def _first_check(given: Mapping[str, Any]) -> CutCheck:
    """Of the first runs, which had random cuts alone and did not measure what cells hold."""
    unknown = float("nan")
    random = Control("random", tuple(map(float, given["random"])), unknown, float(given["p_value"]))
    numbers = {name: float(given[name]) for name in ("accuracy", "cut", "low", "high")}
    return CutCheck(n=int(given["n"]), cells=unknown, weight=unknown, controls=(random,), **numbers)
