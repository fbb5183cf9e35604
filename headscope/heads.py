"""A head's address, and a score for every head of a model: the table that all rooms exchange."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headscope.errors import HeadIndexError

if TYPE_CHECKING:
    import pandas as pd

_LABEL = re.compile(r"^(?:L(\d+)H(\d+)|(\d+)[.-](\d+)|a(\d+)\.h(\d+))$", re.IGNORECASE)


class Head(NamedTuple):
    """One query head: layer and index, both from 0. Printed ``L5H1``."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, label: str) -> Head:
        """Read ``L5H1``, ``5.1``, ``5-1`` or ``a5.h1``.

        Raises:
            HeadIndexError: if the label has none of these forms.
        """
        match = _LABEL.match(label.strip())
        if match is None:
            raise HeadIndexError(f"{label!r} is not a head. Heads are written L3H11 (layer 3, head 11).")
        layer, head = (int(part) for part in match.groups() if part is not None)
        return cls(layer, head)


@dataclass(frozen=True)
class ScoreDefinition:
    """What a score means, independent of any model.

    Attributes:
        name: snake_case identifier, unique over all probes.
        title: short name for people.
        unit: what one unit of the value is.
        formula: the definition, in the notation of the documentation (A is the pattern, T the length).
        source: paper (arXiv id and section) or repository and path.
        reading: range, and what a high value means.
        probe: name of the probe that measures it.
        threshold: value from which a head counts as one of the class, or None if the score makes no class.
        head_class: name of that class ("induction"), or None.
        caveats: pitfalls a reader of the number must know.
        higher: False where a low value makes the class (mean distance, window).
    """

    name: str
    title: str
    unit: str
    formula: str
    source: str
    reading: str
    probe: str
    threshold: float | None = None
    head_class: str | None = None
    caveats: str = ""
    higher: bool = True


@dataclass(frozen=True)
class HeadScores:
    """One score for every head of one model: mean over examples, n and a bootstrap interval.

    Attributes:
        definition: what the number means.
        model: name of the model it was measured on.
        values: mean over examples.
        low: lower end of the 95 % bootstrap interval (NaN where the score has no sampling error).
        high: upper end.
        n: number of examples behind each value.
        n_kv_heads: key/value heads per layer; query head h reads kv head h // (n_heads // n_kv_heads).
    """

    definition: ScoreDefinition
    model: str
    values: Float[np.ndarray, "layer head"]
    low: Float[np.ndarray, "layer head"]
    high: Float[np.ndarray, "layer head"]
    n: Int[np.ndarray, "layer head"]
    n_kv_heads: int

    @property
    def name(self) -> str:
        """The score's identifier."""
        return self.definition.name

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.values.shape[0]

    @property
    def n_heads(self) -> int:
        """Heads per layer (key/value heads in a `by_kv_head` view)."""
        return self.values.shape[1]

    def kv_head(self, head: int) -> int:
        """The key/value head that query head ``head`` reads."""
        return head // max(self.n_heads // self.n_kv_heads, 1)

    def ranked(self) -> list[Head]:
        """All heads, strongest first (lowest first where `ScoreDefinition.higher` is False), NaN last."""
        keys = self.values.astype(np.float64).ravel()
        order = np.argsort(np.where(np.isnan(keys), np.inf, -keys if self.definition.higher else keys), kind="stable")
        return [Head(int(i) // self.n_heads, int(i) % self.n_heads) for i in order]

    def members(self, threshold: float | None = None) -> list[Head]:
        """Heads of the class, strongest first: at or beyond ``threshold`` (default: the definition's).

        Raises:
            ValueError: if neither names a threshold.
        """
        bar = self.definition.threshold if threshold is None else threshold
        if bar is None:
            raise ValueError(f"the score {self.name!r} has no threshold of its own: pass one.")
        keep = self.values >= bar if self.definition.higher else self.values <= bar
        return [head for head in self.ranked() if keep[head]]

    def top(self, count: int = 10) -> pd.DataFrame:
        """The ``count`` strongest heads as a frame, strongest first."""
        frame = self.to_frame()
        order = [head.layer * self.n_heads + head.head for head in self.ranked()[:count]]
        return frame.iloc[order].reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """A row per head: score, label, layer, head, kv_head, value, low, high, n, unit."""
        import pandas as pd

        layers, heads = np.indices(self.values.shape).reshape(2, -1)
        return pd.DataFrame(
            {
                "score": self.name,
                "label": [str(Head(int(a), int(b))) for a, b in zip(layers, heads, strict=True)],
                "layer": layers,
                "head": heads,
                "kv_head": [self.kv_head(int(head)) for head in heads],
                "value": self.values.ravel().astype(np.float64),
                "low": self.low.ravel().astype(np.float64),
                "high": self.high.ravel().astype(np.float64),
                "n": self.n.ravel(),
                "unit": self.definition.unit,
            }
        )

    def for_query_heads(self, n_heads: int) -> HeadScores:
        """A score of key/value heads as one of ``n_heads`` query heads per layer: each has its group's value.

        Raises:
            ValueError: if this is no score of key/value heads, or the heads do not come out even.
        """
        if self.n_heads != self.n_kv_heads or n_heads % self.n_kv_heads:
            raise ValueError(
                f"the score {self.name!r} has {self.n_heads} columns for {self.n_kv_heads} key/value heads: it cannot "
                f"be given to {n_heads} query heads."
            )
        spread = [np.repeat(part, n_heads // self.n_kv_heads, axis=1) for part in (self.values, self.low, self.high)]
        count = np.repeat(self.n, n_heads // self.n_kv_heads, axis=1)
        return replace(self, values=spread[0], low=spread[1], high=spread[2], n=count)

    def by_kv_head(self, reduce: Literal["max", "mean"] = "max") -> HeadScores:
        """The key/value-head view: max (RazorAttention's rule) or mean over each group of query heads.

        The interval of a group is that of its strongest head under ``max``; under ``mean`` the ends are
        averaged, which is conservative.
        """
        groups = self.values.reshape(self.n_layers, self.n_kv_heads, -1)
        if reduce == "mean":
            pick = [part.reshape(groups.shape).mean(-1) for part in (self.values, self.low, self.high)]
            count = self.n.reshape(groups.shape).min(-1)
        else:
            filled = np.where(np.isnan(groups), -np.inf, groups if self.definition.higher else -groups)
            best = filled.argmax(-1)[..., None]
            pick = [
                np.take_along_axis(part.reshape(groups.shape), best, -1)[..., 0]
                for part in (self.values, self.low, self.high)
            ]
            count = np.take_along_axis(self.n.reshape(groups.shape), best, -1)[..., 0]
        return replace(self, values=pick[0], low=pick[1], high=pick[2], n=count)

    def plot(self) -> Any:
        """The layer x head map as a plotly figure (loads the app room lazily)."""
        from importlib import import_module  # the base room must not depend on the app room

        return import_module("app.figures.head_map").head_map_figure(self)

    def _repr_html_(self) -> str:
        shown = self.top(10)[["label", "value", "low", "high", "n"]].to_html(index=False, float_format="{:.3f}".format)
        d = self.definition
        title, model, unit, formula, source = map(escape, (d.title, self.model, d.unit, d.formula, d.source))
        return (
            f"<b>{title}</b> of {model}: {self.n_layers} layers x {self.n_heads} heads, in {unit}."
            f"<br><i>{formula}</i> ({source})<br>Ten strongest heads, 95 % bootstrap interval:{shown}"
        )

    def __repr__(self) -> str:
        best = self.ranked()[0]
        return (
            f"HeadScores({self.name!r} of {self.model!r}, {self.n_layers} x {self.n_heads}, "
            f"strongest {best} = {self.values[best]:.3f})"
        )
