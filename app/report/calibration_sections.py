"""The report of a calibrate run: did it help, which heads were chosen, where sinks sit, attention before and after."""

from __future__ import annotations

from app.figures.calibration import change_figure, sink_bars_figure
from app.figures.calibration_maps import before_after_figure, colour_top, head_maps_figure
from app.report.blocks import FigureBlock, anchor, figure_block
from app.report.boards import BoardSection
from app.views import calibration_tables as tables
from app.views.calibration import CalibrationRun
from app.views.calibration_maps import chosen_maps, sink_maps
from app.views.calibration_sinks import class_rows
from app.views.calibration_words import (
    LAST_TOKENS,
    agreement_text,
    before_after_text,
    means_over_sets,
    overall,
    seeds_text,
    set_verdict,
    settings_text,
    sinks_text,
    tokens_note,
)
from headscope.runs.reading import Run

CALIBRATION_LIMITS = (
    "Heads are chosen on one split and judged on another that shares no phrase or fact with it. The intervals are 95 % "
    "bootstrap intervals over groups of items made from one phrase or fact, which are alike; McNemar's p takes items "
    "for independent, and is a little too small.",
    "The data sets are made from templates and word lists of ours: they say what a model of this size does with plain "
    "short texts, not how it would do on the benchmarks whose form they have.",
    "McNemar's test asks whether accuracy changes at all; the comparison with random heads of the same layers asks "
    "whether the choice of heads matters. With few draws its p cannot be small: with five at least 0.17.",
    "A sink is what the bound says: a token whose mean attention, from the rows that can see it, exceeds alpha / T. "
    "Another bound finds others. The first sink of a head, mostly the first token, is counted here and left as it is "
    "where the setting says so. The last tokens of a prompt are seen by few rows, so a head that looks at the token "
    "itself has sinks there: they are among the later words.",
)


def calibration_lead(run: Run) -> str:
    """What such a run set out to do, in a sentence."""
    model, sets = run.manifest.model, run.manifest.config.get("sets", ())
    return (
        f"Attention sinks of heads of {model.name} ({model.n_layers * model.n_heads} attention heads) were calibrated "
        f"(ACT) on {len(sets)} data {'set' if len(sets) == 1 else 'sets'}, beside random heads, all heads and the "
        "opposite calibration."
    )


def calibration_finding(run: Run) -> str:
    """The verdict over all data sets; empty where none is in yet."""
    return overall(CalibrationRun(run))


def calibration_sections(run: Run) -> tuple[BoardSection, ...]:
    """The sections of a calibrate run, of the stages that are in."""
    found = CalibrationRun(run)
    made = [_helped(found)]
    if found.sets:
        made.append(_chosen(found))
    if found.sinks:
        made += [_sinks(found), _before_after(found)]
    return tuple(made)


def _helped(found: CalibrationRun) -> BoardSection:
    title = "Did it help?"
    if not found.sets:
        return BoardSection(title, (settings_text(found), found.missing()))
    figure = change_figure({name: found.effects(name) for name in found.sets}, means_over_sets(found))
    block = figure_block(
        figure,
        anchor=anchor("calibration", "change"),
        label=f"Change of accuracy on each data set, arm by arm. {overall(found)}",
        caption="Bars: 95 % intervals over items; ticks: single random draws. Right of the line is better.",
    )
    text = (settings_text(found), overall(found), seeds_text(found))
    return BoardSection(
        title,
        text,
        items=tuple(set_verdict(found, name) for name in found.sets),
        figures=(block,),
        tables=(tables.arms_text(found),),
        is_wide=True,
    )


def _chosen(found: CalibrationRun) -> BoardSection:
    maps = chosen_maps(found)
    block = figure_block(
        head_maps_figure(maps),
        anchor=anchor("calibration", "chosen"),
        label=f"Which heads were chosen on each data set. {agreement_text(found)}",
        caption="Colour: share of the seeds with which a head was chosen. Layer 0 is on top.",
    )
    agreement = (tables.agreement_text_table(found),)
    return BoardSection(
        "Which heads were chosen",
        (agreement_text(found),),
        figures=(block,),
        folded=tuple(table for table in agreement if table.rows),
        is_wide=True,
    )


def _sinks(found: CalibrationRun) -> BoardSection:
    bars = figure_block(
        sink_bars_figure(class_rows(found)),
        anchor=anchor("calibration", "sinks"),
        label=f"Attention on sinks by kind of place and class of heads. {sinks_text(found)}",
        caption="Left: share of a row's attention that rests on sinks. Right: how many there are.",
    )
    maps = figure_block(
        head_maps_figure(sink_maps(found)),
        anchor=anchor("calibration", "sink-maps"),
        label="Share of each head's attention on sinks of each kind of place, by layer and head.",
        caption="Share of attention on sinks of each kind of place; the colours of each map end at its own largest.",
    )
    return BoardSection(
        "Where sinks sit",
        (f"{sinks_text(found)}{tokens_note(found)}",),
        figures=(bars, maps),
        tables=(tables.classes_text(found),),
        folded=tuple(table for table in (tables.tokens_text(found),) if table.rows),
        is_wide=True,
    )


def _before_after(found: CalibrationRun) -> BoardSection:
    """The first chosen head of each data set."""
    blocks = list[FigureBlock]()
    for name, sinks in found.sinks.items():
        told = before_after_text(found, name)
        top = f"{colour_top(sinks.shown):.3f}"
        caption = (
            f"{told} Colours follow the square root and end at {top}, the largest weight off the first token. "
            f"{LAST_TOKENS}"
        )
        figure = before_after_figure(sinks.shown)
        blocks.append(figure_block(figure, anchor=anchor("calibration", "pattern", name), label=told, caption=caption))
    return BoardSection("Attention before and after", figures=tuple(blocks), is_wide=True)
