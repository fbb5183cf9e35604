"""What a calibrate run found, in sentences computed from its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.views.calibration import CalibrationRun
from app.views.calibration_arms import (
    CHANGED,
    ENOUGH_DRAWS,
    Effect,
    Outcome,
    mean_change,
    outcome_of,
    p_among_random,
)
from app.views.calibration_heads import head_agreements, pooled_agreement
from app.views.calibration_sinks import ALL_HEADS, PLACES, class_rows, n_texts, share_by_place
from app.views.numbers import fixed, interval, p_text, percent, plain, signed
from circuits.calibration.results import SINK_PLACES, ArmKind
from headscope.statistics import Interval, holm

SAID: dict[Outcome, str] = {
    "helps": "ACT helps here, and random heads do not do the same.",
    "helps as random heads do": "Accuracy rises, and so it does with random heads: which heads are chosen is not why.",
    "helps, no control": "ACT helps here; random heads were not tried, so another choice of heads may do as well.",
    "harms": "ACT harms here, more than random heads do.",
    "harms as random heads do": "Accuracy falls, and so it does with random heads.",
    "harms, no control": "ACT harms here; random heads were not tried.",
    "unclear": "No change that can be told from chance.",
    "no heads": "No head was chosen, so nothing changes.",
}
_IN_LIST: dict[Outcome, str] = {
    "helps": "helps and random heads do not",
    "helps as random heads do": "helps no more than random heads",
    "helps, no control": "helps; random heads were not tried",
    "harms": "harms more than random heads",
    "harms as random heads do": "harms no more than random heads",
    "harms, no control": "harms; random heads were not tried",
    "unclear": "changes nothing that can be told from chance",
    "no heads": "chose no head",
}
ALIKE = (
    "Items made from one phrase or fact are alike: intervals draw whole groups of them, while McNemar's p takes items "
    "for independent and is a little too small."
)

LAST_TOKENS = "Few rows have seen the tokens near the end: whether those are sinks rests on these few rows."


def change_text(change: Interval) -> str:
    """``+0.020 [-0.010, 0.050]``."""
    return f"{signed(change.mean)} {interval(change.low, change.high)}"


def heads_text(effect: Effect) -> str:
    """How many heads: ``8 heads``, ``3 to 16 heads``."""
    low, high = min(effect.heads), max(effect.heads)
    number = str(low) if low == high else f"{low} to {high}"
    return f"{number} head" if number == "1" else f"{number} heads"


def set_verdict(found: CalibrationRun, name: str) -> str:
    """What calibration did on one data set, beside random heads and the other controls."""
    effects = found.by_kind(name)
    selected, base, random = effects["selected"], effects["baseline"], effects.get("random")
    outcome = outcome_of(selected, random)
    guess = f"{name}: accuracy {fixed(base.accuracy.mean)}, a guess {fixed(found.chance(name))}, n = {base.n}"
    if outcome == "no heads":
        return f"{guess}. {SAID[outcome]}"
    said = f"ACT on {heads_text(selected)} changes it by {change_text(selected.change)}, p {p_text(selected.p_value)}"
    return f"{guess}. {said}{_random_text(selected, random)}.{_others_text(effects)} {_said(outcome, random)}"


def overall(found: CalibrationRun) -> str:
    """The verdict over all data sets of the run that are in."""
    own = [(name, found.by_kind(name)) for name in found.sets]
    if not own:
        return ""
    corrected = holm([effects["selected"].p_value for _, effects in own])
    counted = Counter(
        outcome_of(replace(effects["selected"], p_value=p), effects.get("random"))
        for (_, effects), p in zip(own, corrected, strict=True)
    )
    of = f"{len(own)} data {'set' if len(own) == 1 else 'sets'}"
    draws = min(len(effects["random"].draws) if "random" in effects else 0 for _, effects in own)
    told = "; ".join(f"on {counted[one]} ACT {_in_list(one, draws)}" for one in SAID if counted[one])
    after = "" if len(own) == 1 else ", after Holm's correction"
    return f"Mean change of accuracy over {of}: {_means_text(_means(own))}. Of {of}{after}: {told}.{_corrected(own)}"


def _means_text(means: Mapping[ArmKind, Interval]) -> str:
    """Every arm's mean change; of the chosen heads also whether it can be told from 0."""
    told = list[str]()
    for kind, mean in means.items():
        apart = mean.low > 0 or mean.high < 0
        note = f", which can{'' if apart else 'not'} be told from 0" if kind == "selected" else ""
        told.append(f"{_ARM_WORDS[kind]} {change_text(mean)}{note}")
    return "; ".join(told)


def _said(outcome: Outcome, random: Effect | None) -> str:
    """The outcome in a sentence; of few draws no more than they allow."""
    draws = len(random.draws) if random is not None else 0
    if outcome not in ("helps", "harms") or draws >= ENOUGH_DRAWS:
        return SAID[outcome]
    does, so = ("helps", "well") if outcome == "helps" else ("harms", "badly")
    return f"ACT {does} here, and none of {draws_text(draws)} of random heads does as {so} ({_least_p(draws)})."


def _in_list(outcome: Outcome, draws: int) -> str:
    if outcome not in ("helps", "harms") or draws >= ENOUGH_DRAWS:
        return _IN_LIST[outcome]
    does, so = ("helps", "well") if outcome == "helps" else ("harms", "badly")
    return f"{does}, and none of {draws_text(draws)} of random heads does as {so} ({_least_p(draws)})"


def _least_p(draws: int) -> str:
    return f"the least possible p is {p_text(1 / (draws + 1))}"


def draws_text(draws: int) -> str:
    """``1 draw``, ``5 draws``."""
    return f"{draws} {'draw' if draws == 1 else 'draws'}"


_ARM_WORDS: dict[ArmKind, str] = {
    "selected": "chosen heads",
    "random": "random heads",
    "all": "all heads",
    "opposite": "opposite calibration",
}


def means_over_sets(found: CalibrationRun) -> dict[ArmKind, Interval] | None:
    """Mean change over the data sets, by arm; None where there is only one."""
    if len(found.sets) < 2:
        return None
    return _means([(name, found.by_kind(name)) for name in found.sets])


def settings_text(found: CalibrationRun) -> str:
    """What was done to heads and how they were chosen, in a sentence or two."""
    config: Mapping[str, Any] = found.config
    act, selection = config.get("act", {}), config.get("selection", {})
    bound = f"{plain(act['threshold'])}" if act.get("threshold") is not None else f"{plain(act.get('alpha', 5))} / T"
    first = "the first sink of a head stays as it is" if act.get("keep_first", True) else "the first sink too"
    top = f", at most {selection['top']}" if selection.get("top") else ""
    return (
        f"Weights on sinks (mean attention received above {bound}) are multiplied by {plain(act.get('beta', 0.4))}; "
        f"{first}. Heads were chosen by {selection.get('method', '?')} selection{top}, on {config.get('select')} items "
        f"with {config.get('shots')} worked examples each, and judged on {config.get('test')} others per seed."
    )


def before_after_text(found: CalibrationRun, name: str) -> str:
    """What calibration moves in the head that a data set shows."""
    shown = found.sinks[name].shown
    rows = shown.sinks.any(1)
    if not rows.any():
        return f"{shown.head} on a prompt of {name}: it has no sink there that is calibrated."
    on = [float((part * shown.sinks).sum(1)[rows].mean()) for part in (shown.before, shown.after)]
    keys = int(shown.sinks.any(0).sum())
    return (
        f"{shown.head} on a prompt of {name}: the {keys} {'sink' if keys == 1 else 'sinks'} marked ▾ hold "
        f"{percent(on[0])} of the attention of the rows that see them, and {percent(on[1])} when calibrated."
    )


def seeds_text(found: CalibrationRun) -> str:
    """How many trials are behind the numbers."""
    counts = sorted({len(found.seeds(name)) for name in found.sets})
    if not counts:
        return "No trial is in yet."
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    many = number != "1"
    return f"{number} {'seeds' if many else 'seed'} per data set{', their items taken together' if many else ''}."


def agreement_text(found: CalibrationRun) -> str:
    """How far the chosen heads are the same over seeds and over data sets."""
    agreements, parts = head_agreements(found), list[str]()
    for within, what in ((True, "seeds of one data set"), (False, "two data sets")):
        pooled = pooled_agreement(agreements, within=within)
        if pooled is not None:
            parts.append(
                f"the heads chosen with {what} share {percent(pooled.jaccard)} (Jaccard; {percent(pooled.expected)} "
                f"expected of random heads; {pooled.n_pairs} {'pair' if pooled.n_pairs == 1 else 'pairs'})"
            )
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else "One choice of heads: there is nothing to compare it with."


def sinks_text(found: CalibrationRun, name: str = "") -> str:
    """Where the attention on sinks rests, over all heads."""
    row = next(one for one in class_rows(found, name) if one.head_class == ALL_HEADS)
    shares = dict(share_by_place(row.mass))
    parts = ", ".join(f"{PLACES[place]} {percent(shares[place])}" for place in SINK_PLACES)
    later = float(row.counts[1:].sum())
    return (
        f"Sinks hold {percent(float(row.mass.sum()))} of the attention of all heads; of that: {parts}. A head has "
        f"{fixed(later, 2)} sinks besides the first token in a prompt (mean over {n_texts(found, name)} prompts)."
    )


def tokens_note(found: CalibrationRun) -> str:
    """With a blank before it: that a run made before tokens were counted does not have them; else empty."""
    if any(one.tokens for one in found.sinks.values()):
        return ""
    return " This run has no counts of single tokens: it was made before they were kept, or no token is a sink."


def _random_text(selected: Effect, random: Effect | None) -> str:
    if random is None:
        return "; random heads were not tried"
    drawn = len(random.draws)
    ends = f"{signed(min(random.draws))} to {signed(max(random.draws))}" if drawn > 1 else ""
    p = p_text(p_among_random(selected, random))
    return (
        f"; as many random heads {signed(random.change.mean)} ({draws_text(drawn)}{', ' + ends if ends else ''}; p {p})"
    )


def _others_text(effects: dict[ArmKind, Effect]) -> str:
    told = [
        f"{_ARM_WORDS[kind]} {change_text(effects[kind].change)}" for kind in ("all", "opposite") if kind in effects
    ]
    text = "; ".join(told)
    return f" {text[:1].upper()}{text[1:]}." if text else ""


def _means(own: Sequence[tuple[str, Mapping[ArmKind, Effect]]]) -> dict[ArmKind, Interval]:
    found = dict[ArmKind, Interval]()
    for kind in CHANGED:
        if changes := [effects[kind].change for _, effects in own if kind in effects]:
            found[kind] = mean_change(changes)
    return found


def _corrected(own: list[tuple[str, dict[ArmKind, Effect]]]) -> str:
    """How many p values stay below 0.05 when they are corrected for their number."""
    p_values = [effects["selected"].p_value for _, effects in own]
    if len(p_values) < 2:
        return ""
    before, after = (sum(p < 0.05 for p in values) for values in (p_values, holm(p_values)))
    return f" McNemar's p is below 0.05 on {after} of {len(own)} after Holm's correction, on {before} before it."
