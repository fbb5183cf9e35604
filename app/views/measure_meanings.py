"""What a task's own measures are called and mean: the names that the probes of a training give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: as the probe calls it, without its head or layer.
        title: for people; the name itself where nothing more is known of it.
        meaning: a sentence; empty where nothing more is known of it.
        beside: names of the measures that it is drawn beside, as dashed lines.
        is_share: whether it lies in 0 to 1.
        is_first: whether the report draws it.
    """

    name: str
    title: str
    meaning: str = ""
    beside: tuple[str, ...] = ()
    is_share: bool = False
    is_first: bool = False


_VIEWS = {"share": "where rows look", "moved": "what they bring"}
_ROWS = {"other": "rows that are neither a trigger nor the first", "trigger": "trigger rows"}
_ALIKE = {"share": "", "moved": " Even rows are even in this view only if all values write alike."}


def _to_first(view: str, rows: str, *, is_first: bool = False) -> Measure:
    return Measure(
        f"{view}.first.{rows}", f"First token, {view}, {rows} rows",
        f"weight on the first token ({_VIEWS[view]}), mean over {_ROWS[rows]}.{_ALIKE[view]}",
        (f"uniform.first.{rows}",), is_share=True, is_first=is_first,
    )  # fmt: skip


def _to_previous(view: str, rows: str) -> Measure:
    told = f"weight on the token before ({_VIEWS[view]}), mean over {_ROWS[rows]}."
    return Measure(f"{view}.previous.{rows}", f"Previous token, {view}, {rows} rows", told, is_share=True)


def _by_row(name: str, title: str, meaning: str, *, rows: Sequence[str] = ("other", "trigger")) -> list[Measure]:
    return [Measure(f"{name}.{row}", f"{title}, {row} rows", f"{meaning}, mean over {_ROWS[row]}.") for row in rows]


_SINKS = (
    _to_first("share", "other", is_first=True),
    _to_first("moved", "other", is_first=True),
    Measure(
        "value_norm.first", "Value norm of the first token",
        "||v_0 W_O|| over the mean of the other tokens; far below 1: a drained value.", is_first=True,
    ),
    *_by_row("row_mass", "Row mass", "sum of a row of M with its signs"),
    *_by_row("output_norm", "Output norm", "||z_i W_O|| of the head", rows=("other",)),
    Measure(
        "residual_norm.first", "Residual norm of the first token",
        "||h_0|| over the mean of the other tokens, of the embedding (embed) and behind each block (L0, ...); far "
        "above 1: a residual peak.", is_first=True,
    ),
    Measure("accuracy.trigger", "Accuracy on triggers", "share of the triggers answered right.", is_share=True),
    Measure(
        "risk.markov", "Risk on other rows", "cross-entropy in nats on the rows that follow the chain.",
        ("risk.markov_floor",), is_first=True,
    ),
    Measure("risk.backcopy", "Risk on triggers", "cross-entropy in nats on the triggers.", is_first=True),
    _to_first("share", "trigger"),
    _to_first("moved", "trigger"),
    *(_to_previous(view, rows) for rows in ("trigger", "other") for view in _VIEWS),
    *_by_row("output_norm", "Output norm", "||z_i W_O|| of the head", rows=("trigger",)),
    *_by_row("null_mass", "Null mass", "what a row gives to a column that is no token"),
)  # fmt: skip
_ASSOCIATED = {
    "item_label": ("Label on its item", "weight of a label's row on the item before it"),
    "right_label": ("Asked item on right labels", "weight of the last row on the labels that are right, all together"),
    "strength": ("Strength", "weight of the last row on one right label less that on one wrong label, -1 to 1"),
    "target_item": ("Asked item on its class", "weight of the last row on the items of its own class"),
    "target_label": ("Asked item on labels", "weight of the last row on all labels of the context"),
}


def _associated(name: str, view: str, *, is_first: bool = False) -> Measure:
    title, meaning = _ASSOCIATED[name]
    told = f"{meaning} ({view}: {_VIEWS[view]}), mean over contexts of classes never seen.{_ALIKE[view]}"
    beside, is_share = (f"uniform.{name}",), name != "strength"
    return Measure(f"{view}.{name}", f"{title}, {view}", told, beside, is_share=is_share, is_first=is_first)


_CLASSIFICATION = (
    Measure(
        "accuracy.in_context", "Accuracy in context",
        "share answered right on classes never seen. Dashed: naming the label at a random place of the context.",
        ("context_chance",), is_share=True, is_first=True,
    ),
    Measure(
        "accuracy.in_weights", "Accuracy in weights",
        "share answered right on known classes in a context without help.", is_share=True, is_first=True,
    ),
    Measure("accuracy.swapped", "Accuracy, labels swapped",
            "share answered right on known classes with the labels of others.", is_share=True),
    Measure(
        "context_label", "Answers from the context",
        "share of the answers that are a label of the context, right or wrong.", is_share=True, is_first=True,
    ),
    Measure("context_label_probability", "Probability of the context's labels",
            "probability that the model gives to the labels of the context together.", is_share=True),
    *(_associated(name, "share", is_first=name not in ("target_item", "target_label")) for name in _ASSOCIATED),
    *(_associated(name, "moved") for name in _ASSOCIATED),
)  # fmt: skip
_FORMS = {
    "gradient_step": "one gradient step at its best rate",
    "centred_step": "one gradient step on centred examples at its best rate",
    "ridge": "ridge regression",
}
_SIGN = " KQ and OV of a head may both change their sign, so seeds may lie on both sides of 0."


def _beside_forms(name: str, title: str, meaning: str, firsts: Sequence[str] = ()) -> list[Measure]:
    return [
        Measure(f"{name}.{form}", f"{title} {form.replace('_', ' ')}", f"{meaning} {told}.", is_first=form in firsts)
        for form, told in _FORMS.items()
    ]


_REGRESSION = (
    Measure(
        "error.model", "Error", f"mean squared error of the model's answers. Dashed: {', '.join(_FORMS.values())}.",
        tuple(f"error.{form}" for form in _FORMS), is_first=True,
    ),
    *_beside_forms("gap", "Gap to", "mean squared difference of the model's answers from",
                   ("gradient_step", "centred_step")),
    *_beside_forms("cosine", "Cosine with", "cosine, over texts, of the model's answers with", ("gradient_step",)),
    Measure("kq.cosine", "KQ: cosine with the identity",
            "cosine of KQ's rows of the query's x with a multiple of the identity on x." + _SIGN, is_first=True),
    Measure("kq.block_cosine", "KQ: cosine of the x block", "cosine of the x block of KQ with the identity." + _SIGN),
    Measure("kq.scale", "KQ: scale", "omega, the mean of KQ's diagonal on x." + _SIGN),
    Measure("kq.off_block", "KQ: outside the x block", "share of squares outside the x block.", is_share=True),
    Measure("kq.query_y", "KQ: row of the query's y", "its share of ||KQ||^2.", is_share=True),
    Measure("ov.cosine", "OV: cosine with y alone",
            "cosine of OV with a matrix that touches y alone." + _SIGN, is_first=True),
    Measure("ov.scale", "OV: scale", "mu, what OV makes of y." + _SIGN),
    Measure("ov.off_block", "OV: outside y", "share of squares elsewhere than at y.", is_share=True),
    Measure("answer.cosine", "Answer: cosine with y alone",
            "cosine of what a value adds to the answer with y alone." + _SIGN),
    Measure("answer.scale", "Answer: scale", "what a value's y adds to the answer." + _SIGN),
    Measure("rate", "Rate of the layer's step",
            "sum over heads of omega mu, mu that of the answer; over n, of heads without a softmax."),
    Measure("zero_sum", "Zero sum", "|sum mu| / sum |mu| over heads; 0 where they cancel.", is_share=True),
    Measure("same_sign", "Same sign", "part of sum |omega mu| over heads whose signs agree.", is_share=True),
    *_beside_forms(
        "rate", "Rate against",
        "what comes nearest to the model's answers: the rate (of ridge the factor), fitted over texts, of",
    ),
)  # fmt: skip
KNOWN = {one.name: one for one in (*_SINKS, *_CLASSIFICATION, *_REGRESSION)}
"""The measures of Headscope's own probes, in the order in which they are offered."""

_BESIDE = {
    "risk.markov_floor": "the chain itself",
    "context_chance": "a random place of the context",
    **{f"error.{form}": form.replace("_", " ") for form in _FORMS},
}


def beside_title(name: str) -> str:
    """What a dashed line is called."""
    return "even rows" if name.startswith("uniform.") else _BESIDE.get(name, name)


def measure_of(name: str) -> Measure:
    """What is known of a measure; an unknown one is shown as it is called."""
    return KNOWN.get(name, Measure(name, name))


def offered(names: Sequence[str]) -> tuple[Measure, ...]:
    """The measures among these names, the known ones first; those that another is drawn beside are not offered."""
    own = dict.fromkeys(names)
    dashed = {other for name in own for other in measure_of(name).beside}
    known = [one for name, one in KNOWN.items() if name in own]
    unknown = [measure_of(name) for name in own if name not in KNOWN]
    return tuple(one for one in (*known, *unknown) if one.name not in dashed)
