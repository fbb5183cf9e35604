"""The tables of a calibrate run: for its panels and exports, for the terminal, for the report."""

from __future__ import annotations

import numpy as np

from app.views.calibration import CalibrationRun
from app.views.calibration_arms import ARMS, Effect, p_among_random
from app.views.calibration_heads import head_agreements, times_chosen
from app.views.calibration_sinks import PLACES, class_rows, count_maps, mass_maps, sink_tokens
from app.views.calibration_words import ALIKE, heads_text, overall, seeds_text, set_verdict, sinks_text
from app.views.numbers import MISSING, NO_BREAK, fixed, interval, p_text, percent, signed
from app.views.table import Cell, Column, Table
from app.views.tables import TextTable
from circuits.calibration.results import SINK_PLACES, BeforeAfter

_MOST_TOKENS = 12
_BASE = (
    Column("data_set", "Data set"),
    Column("seed", "Seed", meaning="of split and demonstrations; empty: the items of all seeds together"),
    Column("arm", "Arm"),
    Column("heads", "Heads", meaning="calibrated heads; of several seeds the fewest and the most"),
    Column("beta", "Beta", 2, "what weights on sinks are multiplied by"),
    Column("n", "n", meaning="items"),
)
_MEASURED = (
    Column("accuracy", "Accuracy", 3, "of random heads the mean over draws"),
    Column("accuracy_low", "Low", 3, "lower end of its 95 % interval"),
    Column("accuracy_high", "High", 3, "upper end"),
    Column("change", "Change", 3, "mean paired change of accuracy against the model as it is"),
    Column("change_low", "Change, low", 3, "lower end of its 95 % interval"),
    Column("change_high", "Change, high", 3, "upper end"),
    Column("margin_change", "Margin change", 3, "the same for right answer minus best wrong one, nats"),
    Column("margin_low", "Margin, low", 3, "lower end of its 95 % interval"),
    Column("margin_high", "Margin, high", 3, "upper end"),
    Column("gained", "Gained", meaning="items that are right now and were wrong"),
    Column("lost", "Lost", meaning="items that were right and are wrong now"),
    Column("p_value", "p (McNemar)", 4, "exact, two-sided"),
    Column("draws", "Draws", meaning="random choices of heads"),
    Column("draw_low", "Lowest draw", 3, "change of accuracy"),
    Column("draw_high", "Highest draw", 3, "change of accuracy"),
    Column("p_random", "p among random", 3, "one-sided: (1 + draws at least as accurate) / (1 + draws)"),
    Column("chance", "Guess", 3, "accuracy of a guess"),
)


def effect_table(found: CalibrationRun, only: str = "") -> Table:
    """A row per data set and arm, all seeds together, and behind them one per seed.

    Args:
        found: the run.
        only: a data set; all if empty.
    """
    rows = list[tuple[Cell, ...]]()
    for name in [name for name in found.sets if only in ("", name)]:
        seeds = found.seeds(name)
        for seed in (None, *(seeds if len(seeds) > 1 else ())):
            rows += _effect_rows(found, name, seed)
    meta = {"run": found.run.manifest.id, "intervals": f"95 % bootstrap over items. {ALIKE}"}
    return Table("What calibration changes", (*_BASE, *_MEASURED), tuple(rows), meta)


def _effect_rows(found: CalibrationRun, name: str, seed: int | None) -> list[tuple[Cell, ...]]:
    effects = found.effects(name, seed)
    random = next((one for one in effects if one.kind == "random"), None)
    return [
        (
            name,
            seed,
            ARMS[one.kind],
            heads_text(one).split(" head")[0],
            one.beta,
            one.n,
            *one.accuracy,
            *one.change,
            *one.margin_change,
            one.gained,
            one.lost,
            one.p_value,
            len(one.draws) or None,
            min(one.draws, default=None),
            max(one.draws, default=None),
            p_among_random(one, random) if one.kind == "selected" else None,
            found.chance(name),
        )
        for one in effects
    ]


def class_table(found: CalibrationRun, name: str = "") -> Table:
    """A row per class of heads and kind of place."""
    columns = (
        Column("head_class", "Heads"),
        Column("place", "Place"),
        Column("mass", "Mass", 4, "share of a row's attention on sinks there, mean over heads"),
        Column("count", "Sinks", 3, "per prompt and head"),
        Column("heads", "Number of heads"),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (row.title, PLACES[place], float(row.mass[at]), float(row.counts[at]), max(row.n_heads))
        for row in class_rows(found, name)
        for at, place in enumerate(SINK_PLACES)
    )
    return Table(f"Where sinks sit: {name or 'all data sets'}", columns, rows, _sink_meta(found))


def sink_head_table(found: CalibrationRun, name: str = "") -> Table:
    """A row per head: mass and count of sinks by place."""
    mass, counts = mass_maps(found, name), count_maps(found, name)
    columns = (
        Column("head", "Head"),
        *(Column(f"{place}_mass", f"{PLACES[place]}, mass", 4) for place in SINK_PLACES),
        *(Column(f"{place}_count", f"{PLACES[place]}, sinks", 2, "per prompt") for place in SINK_PLACES),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (f"L{layer}H{head}", *map(float, mass[layer, head]), *map(float, counts[layer, head]))
        for layer, head in np.ndindex(*mass.shape[:2])
    )
    return Table(f"Sinks by head: {name or 'all data sets'}", columns, rows, _sink_meta(found))


def chosen_table(found: CalibrationRun) -> Table:
    """A row per head that was ever chosen: in how many trials of each data set."""
    counts = {name: times_chosen(found, name) for name in found.sets}
    columns = (
        Column("head", "Head"),
        *(Column(name, name, meaning=f"of {len(found.seeds(name))} trials") for name in counts),
        Column("total", "All", meaning=f"of {sum(len(found.seeds(name)) for name in counts)} trials"),
    )
    total = sum(counts.values(), np.zeros(()))
    places = sorted(np.argwhere(total).tolist() if total.ndim else [], key=lambda at: (-total[tuple(at)], at))
    rows = tuple[tuple[Cell, ...], ...](
        (f"L{at[0]}H{at[1]}", *(int(one[tuple(at)]) for one in counts.values()), int(total[tuple(at)])) for at in places
    )
    return Table("How often each head was chosen", columns, rows, {"run": found.run.manifest.id})


def pattern_table(found: CalibrationRun, shown: BeforeAfter) -> Table:
    """A row per cell of a head's pattern, before and after."""
    columns = (
        Column("query", "Query", meaning="position"),
        Column("query_token", "Query token"),
        Column("key", "Key", meaning="position"),
        Column("key_token", "Key token"),
        Column("before", "Before", 4, "share of the row's attention"),
        Column("after", "After", 4, "calibrated"),
        Column("sink", "Sink", meaning="whether the key is a calibrated sink of the row"),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (row, shown.tokens[row], key, shown.tokens[key], float(shown.before[row, key]), float(shown.after[row, key]),
         bool(shown.sinks[row, key]))
        for row in range(len(shown.tokens))
        for key in range(row + 1)
    )  # fmt: skip
    meta = {"run": found.run.manifest.id, "head": str(shown.head)}
    return Table(f"Attention of {shown.head} before and after", columns, rows, meta)


def calibration_tables(found: CalibrationRun) -> list[TextTable]:
    """Every table of a calibrate run for the terminal, of the stages that are in."""
    made = [arms_text(found), verdicts_text(found)] if found.sets else []
    made += [agreement_text_table(found)] if len(head_agreements(found)) else []
    made += [classes_text(found), tokens_text(found)] if found.sinks else []
    return [table for table in made if table.rows]


def arms_text(found: CalibrationRun) -> TextTable:
    """A row per data set and arm, all seeds together."""
    columns = ("data set", "arm", "heads", "accuracy", "change", "95 % interval of it", "+/-", "p", "draws")
    rows = tuple(_arm_cells(found, name, one) for name in found.sets for one in found.effects(name))
    note = (
        f"{seeds_text(found)} {ALIKE} +/-: items gained and lost. p: McNemar, exact, two-sided; of the chosen heads "
        "also one-sided among random draws."
    )
    return TextTable("Does calibration help?", columns, rows, frozenset(columns[2:8]), note)


def verdicts_text(found: CalibrationRun) -> TextTable:
    """A sentence or two per data set, and over all."""
    rows = [(name, set_verdict(found, name).removeprefix(f"{name}: ")) for name in found.sets]
    whole = [("all", overall(found))] if len(rows) > 1 else []
    return TextTable("What came of it", ("data set", "verdict"), (*rows, *whole), frozenset())


def _arm_cells(found: CalibrationRun, name: str, one: Effect) -> tuple[str, ...]:
    base = one.kind == "baseline"
    p = p_text(one.p_value)
    random = found.by_kind(name).get("random")
    if one.kind == "selected" and random is not None:
        p = f"{p}; {p_text(p_among_random(one, random))}"
    ends = f"{signed(min(one.draws, default=0))} to {signed(max(one.draws, default=0))}"
    return (
        f"{name} (n = {one.n}, guess {fixed(found.chance(name), 2)})" if base else "",
        ARMS[one.kind],
        "" if base else heads_text(one).split(" head")[0],
        fixed(one.accuracy.mean),
        "" if base else signed(one.change.mean),
        "" if base else interval(*one.change[1:]),
        "" if one.gained is None or base else f"{one.gained}/{one.lost}",
        "" if base or p == MISSING else p,
        f"{len(one.draws)}: {ends}".replace(" ", NO_BREAK) if one.draws else "",
    )


def agreement_text_table(found: CalibrationRun) -> TextTable:
    """How far data sets and seeds chose the same heads."""
    columns = ("heads of", "and of", "pairs", "Jaccard", "expected of random")
    rows = tuple(
        (
            one.first,
            "other seeds" if one.first == one.second else one.second,
            str(one.n_pairs),
            fixed(one.jaccard),
            fixed(one.expected),
        )
        for one in head_agreements(found)
    )
    note = "Expected: of random heads of the same numbers, from the heads that were chosen among."
    return TextTable("Are the same heads chosen?", columns, rows, frozenset(columns[2:]), note)


def classes_text(found: CalibrationRun, name: str = "") -> TextTable:
    """Mass and number of sinks by place, a row per class of heads."""
    columns = ("heads", *(PLACES[place] for place in SINK_PLACES), "all sinks")
    rows = tuple(
        (
            row.title,
            *(f"{percent(float(row.mass[at]))} ({fixed(float(row.counts[at]), 2)})" for at in range(len(SINK_PLACES))),
            f"{percent(float(row.mass.sum()))} ({fixed(float(row.counts.sum()), 2)})",
        )
        for row in class_rows(found, name)
    )
    note = f"Share of a row's attention on sinks, and sinks per prompt and head. {sinks_text(found, name)}"
    return TextTable(f"Where sinks sit: {name or 'all data sets'}", columns, rows, frozenset(columns[1:]), note)


def tokens_text(found: CalibrationRun, name: str = "") -> TextTable:
    """The tokens that are sinks most often."""
    columns = ("token", "place", "times a sink", "mean mass")
    rows = tuple((one.token, PLACES[one.place], str(one.count), fixed(one.mass))
                 for one in sink_tokens(found, name)[:_MOST_TOKENS])  # fmt: skip
    note = "Counted over heads and prompts; mass: mean attention from the rows that can see it."
    return TextTable("Tokens that are sinks most often", columns, rows, frozenset(columns[2:]), note)


def _sink_meta(found: CalibrationRun) -> dict[str, object]:
    return {"run": found.run.manifest.id, "texts": found.config.get("texts"), "act": found.config.get("act")}
