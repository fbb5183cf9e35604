"""Everything that the report shows, gathered from a run before any HTML is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.figures.agreement import agreement_figure
from app.figures.overlap import overlap_figure
from app.report.blocks import FigureBlock, figure_block
from app.report.boards import BoardSection, bench_sections, board_lead, board_limits, circuit_sections
from app.report.calibration_sections import (
    CALIBRATION_LIMITS,
    calibration_finding,
    calibration_lead,
    calibration_sections,
)
from app.report.policy_sections import POLICY_LIMITS, policy_finding, policy_lead, policy_sections
from app.report.sections import (
    CheckSection,
    ClassSection,
    MapSection,
    check_section,
    class_sections,
    map_section,
)
from app.report.variant_sections import (
    COMPARE_LIMITS,
    TRAIN_LIMITS,
    compare_finding,
    compare_lead,
    compare_sections,
    train_finding,
    train_sections,
)
from app.views import benchmark, calibration, circuit, policies, training, variant_comparison
from app.views.agreement import ScoreAgreement, score_agreement
from app.views.classes import HeadClass, head_classes
from app.views.definitions import DefinitionEntry, definition_entries
from app.views.limits import limits
from app.views.overlap import ClassOverlap, class_overlap
from app.views.provenance import Provenance, provenance
from app.views.spread import SpreadRow, spread_rows
from app.views.summary import Summary, summary
from app.views.training_tables import train_lead
from headscope.card import CapabilityCard
from headscope.checks import CausalCheck
from headscope.heads import HeadScores
from headscope.runs.reading import Run

_BOARDS = {
    circuit.KIND: circuit_sections,
    benchmark.KIND: bench_sections,
    policies.KIND: policy_sections,
    calibration.KIND: calibration_sections,
    training.KIND: train_sections,
    variant_comparison.KIND: compare_sections,
}
_LEADS = {
    policies.KIND: policy_lead,
    calibration.KIND: calibration_lead,
    training.KIND: train_lead,
    variant_comparison.KIND: compare_lead,
}
_FINDINGS = {
    policies.KIND: policy_finding,
    calibration.KIND: calibration_finding,
    training.KIND: train_finding,
    variant_comparison.KIND: compare_finding,
}
_LIMITS = {
    policies.KIND: POLICY_LIMITS,
    calibration.KIND: CALIBRATION_LIMITS,
    training.KIND: TRAIN_LIMITS,
    variant_comparison.KIND: COMPARE_LIMITS,
}


@dataclass(frozen=True)
class OverlapSection:
    """Class overlap as numbers and as a figure."""

    overlap: ClassOverlap
    figure: FigureBlock


@dataclass(frozen=True)
class AgreementSection:
    """Rank agreement as numbers and as a figure."""

    agreement: ScoreAgreement
    figure: FigureBlock


@dataclass(frozen=True)
class ReportContents:
    """The report as data; the template only lays it out.

    Attributes:
        model: the model's name.
        run_id: the run's name.
        kind: the command that made it.
        board: sections of a circuit run, a benchmark of circuit methods, a policies, calibrate,
            train or compare run; else empty.
        is_complete: False puts a banner on the report.
        missing_stages: planned stages that were not finished.
        finding: what a policies, calibrate, train or compare run found, in a sentence or two; empty for others.
        summary: the run in words.
        card: what the model was seen to support, or None where it was not recorded.
        classes: a section per class.
        has_checks: whether any heads were ablated.
        loose_checks: checks beyond the first of each class, and of classes that no score of this run makes.
        maps: maps of the scores that make no class.
        spread: a row per such score.
        overlap: None with fewer than two classes.
        agreement: None with fewer than two scores.
        definitions: an entry per score.
        limits: reservations.
        provenance: where the numbers come from.
    """

    model: str
    run_id: str
    kind: str
    board: tuple[BoardSection, ...]
    is_complete: bool
    missing_stages: tuple[str, ...]
    finding: str
    summary: Summary
    card: CapabilityCard | None
    classes: tuple[ClassSection, ...]
    has_checks: bool
    loose_checks: tuple[CheckSection, ...]
    maps: tuple[MapSection, ...]
    spread: tuple[SpreadRow, ...]
    overlap: OverlapSection | None
    agreement: AgreementSection | None
    definitions: tuple[DefinitionEntry, ...]
    limits: tuple[str, ...]
    provenance: Provenance


def report_contents(run: Run) -> ReportContents:
    """Gather what the report of ``run`` shows; works for unfinished runs too."""
    by_name, checks = run.scores(), run.checks()
    scores = list(by_name.values())
    classes = head_classes(scores, checks)
    others = [one for one in scores if one.name not in {made.definition.name for made in classes}]
    model, kind = run.manifest.model.name, run.manifest.kind
    board = _BOARDS[kind](run) if kind in _BOARDS else ()
    return ReportContents(
        model=model,
        run_id=run.manifest.id,
        kind=kind,
        board=board,
        is_complete=run.is_complete,
        missing_stages=tuple(run.missing_stages),
        finding=_FINDINGS[kind](run) if kind in _FINDINGS else "",
        summary=Summary(_LEADS.get(kind, board_lead)(run), "", ())
        if board
        else summary(model, scores, classes, checks),
        card=run.card,
        classes=class_sections(classes, by_name),
        has_checks=any(check.points for check in checks),
        loose_checks=_loose_checks(classes, checks),
        maps=tuple(map_section(one, compact=True) for one in others),
        spread=tuple(spread_rows(others)),
        overlap=_overlap_section(classes),
        agreement=_agreement_section(scores),
        definitions=tuple(definition_entries(scores)),
        limits=(*limits(scores, classes, checks), *_LIMITS.get(kind, board_limits(kind))),
        provenance=provenance(run),
    )


def _loose_checks(classes: Sequence[HeadClass], checks: Sequence[CausalCheck]) -> tuple[CheckSection, ...]:
    shown = [one.check for one in classes]
    return tuple(check_section(check) for check in checks if not any(check is other for other in shown))


def _overlap_section(classes: Sequence[HeadClass]) -> OverlapSection | None:
    if len(classes) < 2:
        return None
    overlap = class_overlap(classes)
    label = "Heads shared by each pair of classes; the same numbers are in the table."
    caption = (
        "Colour: Jaccard index. Number: heads in both classes; on the diagonal, without colour, the size of the class."
    )
    return OverlapSection(
        overlap, figure_block(overlap_figure(overlap), anchor="plot-overlap", label=label, caption=caption)
    )


def _agreement_section(scores: Sequence[HeadScores]) -> AgreementSection | None:
    if len(scores) < 2:
        return None
    agreement = score_agreement(scores)
    label = "Spearman's rank correlation of each pair of scores; the same numbers are in the table."
    caption = "Orange: one score falls as the other rises. Purple: both rise together. Scores enter as they are."
    return AgreementSection(
        agreement,
        figure_block(agreement_figure(agreement), anchor="plot-agreement", label=label, caption=caption),
    )
