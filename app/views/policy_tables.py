"""The tables of a policies run: what its page exports, what the terminal prints and the report lays out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from app.views.numbers import fixed, interval, percent, signed
from app.views.policies import PolicyRun
from app.views.policy_points import AXES, FULL, MEASURES, REGIMES, Axis, Point, curve_title, decimals_for, policy_title
from app.views.policy_verdicts import Verdict, pareto_front, verdicts_of, wasteful_curves
from app.views.table import Cell, Column, Table
from circuits.policies.catalog import POLICIES
from circuits.policies.kinds import PolicyKind
from circuits.policies.results import Regime

COUNTED = (
    "Bytes are counted from what each key/value head still holds at the end of the text, not measured on a device."
)
LEAST: Mapping[Axis, str] = {
    "bytes": "Smallest cache",
    "keys": "Fewest keys attended",
    "flops": "Fewest operations",
}
FAMILIES = {
    "cache": "drops keys for good",
    "sparse": "keeps all keys, looks at some",
    "softmax": "keeps all keys, changes their weights",
}
_MEASURED = (
    Column("n", "n", meaning="prompts"),
    Column("value", "Mean", 3),
    Column("low", "Low", 3, "lower end of the 95 % bootstrap interval over prompts"),
    Column("high", "High", 3, "upper end"),
)
_CHANGED = (
    Column("change", "Change", 3, "mean change from the full cache on the same prompts"),
    Column("change_low", "Change, low", 3, "lower end of the paired 95 % bootstrap interval"),
    Column("change_high", "Change, high", 3, "upper end"),
)
_SHARES = (
    Column("bytes_share", "Bytes kept", 3, "share of the full cache's keys and values at the end of the text; counted"),
    Column("keys_share", "Keys attended", 3, "share of those that full attention attends, over the rows it acts on"),
    Column("operations_share", "Operations", 3, "share of full attention's, choosing keys included, on those rows"),
)
_REST = (
    Column("bytes", "Bytes", meaning="of keys and values at the end of the text, mean over prompts; counted"),
    Column("acts", "Acts", meaning="from which token on"),
)


def point_table(found: PolicyRun, task: str, length: int, axis: Axis) -> Table:
    """A row per point, as the picture has it: random assignments of as many heads are one."""
    front = pareto_front(found, task, length, axis)
    columns = (
        Column("curve", "Policy"),
        Column("setting", "Setting"),
        *_SHARES,
        *_MEASURED,
        *_CHANGED,
        Column("draws", "Draws", meaning="random assignments of as many heads; empty where heads are not drawn"),
        Column("lowest_draw", "Lowest draw", 3),
        Column("highest_draw", "Highest draw", 3),
        *_REST,
        Column(
            "on_front",
            "On the front",
            meaning=f"no other is better at as small a {AXES[axis]}, nor random heads as good",
        ),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (
            curve_title(point.arm),
            point.setting,
            *_numbers(point),
            point.draws or None,
            *((point.lowest, point.highest) if point.draws else (None, None)),
            *_rest(point),
            point in front,
        )
        for point in found.points(task, length)
    )
    return Table(f"{task}, {length} tokens: {MEASURES[found.measure(task)]}", columns, rows, _meta(found, task, length))


def arm_table(found: PolicyRun, task: str, length: int) -> Table:
    """A row per arm that was run; each random assignment is one."""
    columns = (
        Column("policy", "Policy"),
        Column("setting", "Setting"),
        Column("draw", "Draw", meaning="number of the random assignment, from 1"),
        *_SHARES,
        *_MEASURED,
        *_CHANGED,
        *_REST,
        Column("tokens", "Tokens", meaning="of each prompt; of a loss, of each text"),
        Column("options", "Options", meaning="settings given by hand, as JSON"),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (
            curve_title(point.arm),
            point.setting,
            point.arm.draw + 1 or None,
            *_numbers(point),
            *_rest(point),
            outcome.length,
            json.dumps(dict(outcome.arm.settings), sort_keys=True) if outcome.arm.settings else "",
        )
        for outcome, point in found.arms(task, length)
    )
    return Table(
        f"Arms on {task}, {length} tokens: {MEASURES[found.measure(task)]}", columns, rows, _meta(found, task, length)
    )


def shown_arms(found: PolicyRun, task: str, length: int) -> Table:
    """`arm_table` to be read: each mean with its interval, shares in percent."""
    columns = (
        Column("policy", "Policy"),
        Column("setting", "Setting"),
        Column("draw", "Draw", meaning="number of the random assignment, from 1"),
        Column("bytes_share", "Bytes kept", meaning=_SHARES[0].meaning),
        Column("keys_share", "Keys attended", meaning=_SHARES[1].meaning),
        Column("operations_share", "Operations", meaning=_SHARES[2].meaning),
        Column("value", MEASURES[found.measure(task)].capitalize(), meaning="mean and its 95 % interval over prompts"),
        Column("change", "Change", meaning="from the full cache on the same prompts, with its paired 95 % interval"),
        Column("n", "n", meaning="prompts"),
        Column("acts", "Acts", meaning="from which token on"),
        Column("options", "Options", meaning="settings given by hand, as JSON"),
    )
    rows = list[tuple[Cell, ...]]()
    for outcome, point in found.arms(task, length):
        decimals = decimals_for(point.value)
        ends, value = value_texts(point)
        change = f"{signed(point.change, decimals)} {interval(point.change_low, point.change_high, decimals)}"
        options = json.dumps(dict(outcome.arm.settings), sort_keys=True) if outcome.arm.settings else ""
        rows.append(
            (curve_title(point.arm), point.setting, point.arm.draw + 1 or None,
             *(percent(point.shares[axis]) for axis in AXES), f"{value} {ends}", change, point.n,
             REGIMES[point.regime], options)
        )  # fmt: skip
    return Table(f"Arms on {task}, {length} tokens", columns, tuple(rows), _meta(found, task, length))


def verdict_table(found: PolicyRun, task: str, length: int, axis: Axis) -> Table:
    """A row per curve: the least that it takes to do nearly as well as the full cache."""
    columns = (
        Column("curve", "Policy"),
        Column("setting", "Setting", meaning="that takes least of those that reach the bar"),
        *_SHARES,
        *_MEASURED,
        *_CHANGED,
        Column(
            "share_by_interval", f"{LEAST[axis]}, by interval", 3,
            "least where the interval of the change stays within the bar too",
        ),
        Column("too_few", "Too few prompts", meaning="how many, where all agree and are too few to be sure"),
        Column("acts", "Acts", meaning="from which token on; off the bytes axis compare only those that act alike"),
    )  # fmt: skip
    rows = tuple(_verdict_row(found, one, axis) for one in verdicts_of(found, task, length, axis))
    return Table(least_text(found, task, length, axis), columns, rows, _meta(found, task, length))


def least_text(found: PolicyRun, task: str, length: int, axis: Axis) -> str:
    """Heading of the verdicts: ``Smallest cache with 95 % of the full cache's accuracy: needle, 512 tokens``."""
    return f"{LEAST[axis]} {bar_text(found, task)}: {task}, {length:,} tokens"


def bar_text(found: PolicyRun, task: str) -> str:
    """What counts as nearly as good: ``with 95 % of the full cache's accuracy``."""
    if found.measure(task) != "loss":
        return f"with 95 % of the full cache's {MEASURES[found.measure(task)]}"
    return "with a loss within 1 % (or 0.01 nats, if that is more) of the full cache's"


def sure_text(one: Verdict, axis: Axis) -> str:
    """The least by interval: ``25.0 %``, ``too few (n = 4)`` where all of few prompts agree, or ``none``."""
    if one.sure is not None:
        return percent(one.sure.shares[axis])
    return f"too few (n = {one.too_few})" if one.too_few else "none"


def by_regime(verdicts: Sequence[Verdict], axis: Axis) -> dict[Regime | None, list[Verdict]]:
    """Verdicts that can be compared: all on the bytes axis, else one list per regime."""
    found = dict[Regime | None, list[Verdict]]()
    for one in verdicts:
        found.setdefault(None if axis == "bytes" else one.regime, []).append(one)
    return found


def kind_table(found: PolicyRun) -> Table:
    """What each policy of the run is."""
    columns = (
        Column("policy", "Policy"),
        Column("name", "Name"),
        Column("family", "Kind"),
        Column("summary", "What it does"),
        Column("unit", "Told apart", meaning="heads that may be treated differently"),
        Column("source", "Source"),
        Column("note", "Differs from its source"),
    )
    kinds = [POLICIES[name] for name in found.policies if name in POLICIES]
    rows = tuple(
        (kind.title, kind.name, family_text(kind), kind.summary, kind.unit, kind.source, kind.note) for kind in kinds
    )
    return Table("What each policy is", columns, rows, {"run": found.run.manifest.id})


def family_text(kind: PolicyKind) -> str:
    """What becomes of the keys: ``drops keys for good``."""
    return "drops nothing" if kind.name == FULL else FAMILIES[kind.family]


def left_out_text(found: PolicyRun, task: str, length: int, axis: Axis) -> str:
    """Which curves have no verdict, and why; with a blank behind it, or empty."""
    judged = {one.curve.split("/")[0] for one in verdicts_of(found, task, length, axis)}
    whole = [(curve, curve.split("/")[0]) for curve in wasteful_curves(found, task, length, axis)]
    names = dict.fromkeys(found.title(curve) if name in judged else policy_title(name) for curve, name in whole)
    return f"Left out, as they save none: {'; '.join(names)}. " if names else ""


def title_text(found: PolicyRun, task: str, length: int) -> str:
    """What a table or figure of a task shows: ``needle, 512 tokens: accuracy, full cache 0.90 [...], n = 20``."""
    full, points = found.full(task, length), found.points(task, length)
    n = f", n = {points[0].n}" if points else ""
    told = f", full cache {' '.join(value_texts(full)[::-1])}" if full else ""
    unit = " (nats per token)" if found.measure(task) == "loss" else ""
    return f"{task}, {length} tokens: {MEASURES[found.measure(task)]}{unit}{told}{n}"


def draws_text(point: Point) -> str:
    """The range over random assignments: ``3: 0.125 to 0.500``."""
    if not point.draws:
        return ""
    return f"{point.draws}: {fixed(point.lowest)} to {fixed(point.highest)}"


def _numbers(point: Point) -> tuple[Cell, ...]:
    """What a point takes, does, and changes."""
    shares = (point.shares["bytes"], point.shares["keys"], point.shares["flops"])
    change = (point.change, point.change_low, point.change_high)
    return (*shares, point.n, point.value, point.low, point.high, *change)


def _rest(point: Point) -> tuple[Cell, ...]:
    return (point.kv_bytes, REGIMES[point.regime])


def _verdict_row(found: PolicyRun, one: Verdict, axis: Axis) -> tuple[Cell, ...]:
    sure = one.sure.shares[axis] if one.sure else None
    rest = (sure, one.too_few or None, REGIMES[one.regime])
    if one.smallest is None:
        return (found.title(one.curve), "none of this run", *([None] * 10), *rest)
    return (found.title(one.curve), one.smallest.setting, *_numbers(one.smallest), *rest)


def value_texts(point: Point) -> tuple[str, str]:
    """The interval and the mean, with digits enough near 0."""
    decimals = decimals_for(point.value)
    return interval(point.low, point.high, decimals), fixed(point.value, decimals)


def _meta(found: PolicyRun, task: str, length: int) -> dict[str, object]:
    return {"run": found.run.manifest.id, "task": task, "length": length, "measure": MEASURES[found.measure(task)],
            "bytes": COUNTED}  # fmt: skip
