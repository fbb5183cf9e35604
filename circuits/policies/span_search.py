"""MoA's search: a window for every head, so that the loss rises least under a budget.

Fu et al. 2024, arXiv 2406.14909, section 4.2. Every head takes one rule (base, slope); the predicted rise of the loss
is the sum of what each head's rule does alone (`circuits.policies.span_influence`), averaged over the lengths searched
over, and at each of these lengths the cache may hold no more than its share. That is the paper's mixed-integer
program, solved to a relative gap of 1e-4 by HiGHS (`scipy.optimize.milp`).

Where it is not the paper's: one objective, the mean over lengths, instead of a Pareto front over them; no limit on how
many rules a layer uses, which served the authors' kernel; N in ``base + slope * N`` is the text so far, not the whole
prompt; no rule is preferred for making the loss fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from circuits.policies.masks import Spans
from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.span_influence import SpanRules, span_influence
from headscope.errors import ConfigError
from headscope.heads import HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from probes.probe import OnStep, no_progress

_GAP, _SECONDS = 1e-4, 60.0
_THRIFT = 1e-6
"""What a whole text of keys costs, in units of the largest influence: of equal rules the shorter wins."""

MOA_SPAN = ScoreDefinition(
    name="moa_span",
    title="Span (MoA)",
    unit="share of the text",
    formula="(sink + base + slope * N) / N of the rule that the search gives the head, at most 1",
    source="Fu et al. 2024 (MoA), arXiv 2406.14909, section 4.2",
    reading="0 to 1; 1 means that the head keeps the whole text",
    probe="span_search",
    caveats="Query heads; depends on the budget, the rules offered and the length N; query heads of one group share "
    "a rule where the cache is counted.",
)


@dataclass(frozen=True)
class SpanPlan:
    """A window for every query head: ``span = base + slope * tokens so far``, and the first tokens.

    Attributes:
        base: window in tokens.
        slope: what it grows by per token.
        sink: first tokens that stay.
        n_kv_heads: key/value heads per layer.
        influence: predicted rise of the loss in nats per token, mean over the lengths searched over.
        lengths: these lengths.
        n_examples: texts that the influence was measured on.
    """

    base: Float[np.ndarray, "layer head"]
    slope: Float[np.ndarray, "layer head"]
    sink: int
    n_kv_heads: int
    influence: float
    lengths: tuple[int, ...]
    n_examples: int

    def spans(self, length: int) -> Int[np.ndarray, "layer head"]:
        """Keys that each query head sees at the end of a text."""
        return SpanRules(self.base.ravel(), self.slope.ravel(), self.sink).entries(length).reshape(self.base.shape)

    def entries(self, length: int) -> Int[np.ndarray, "layer kv_head"]:
        """Keys that each key/value head holds then: those of its query head with the longest window."""
        spans = self.spans(length)
        return spans.reshape(len(spans), self.n_kv_heads, -1).max(-1)

    def share(self, length: int) -> float:
        """Share of the full cache that is held, 0 to 1."""
        return float(self.entries(length).mean() / length)

    def policy(self) -> Spans:
        """The plan as a policy."""
        return Spans(torch.from_numpy(self.base).float(), torch.from_numpy(self.slope).float(), self.sink)

    def scores(self, model: str, length: int) -> HeadScores:
        """The spans as a score per query head, for a text of ``length`` tokens; without an interval."""
        values = self.spans(length) / length
        blank, n = np.full(values.shape, np.nan), np.full(values.shape, self.n_examples, dtype=np.int64)
        return HeadScores(MOA_SPAN, model, values, blank, blank, n, self.n_kv_heads)


def search_spans(
    model: HookedModel,
    batches: Sequence[AnswerBatch],
    settings: SpanSearchSettings | None = None,
    *,
    on_step: OnStep = no_progress,
) -> SpanPlan:
    """Measure what shorter windows do, and choose.

    Args:
        model: the model.
        batches: texts to measure on, a batch per length (the paper: two lengths or more; one leaves slopes open).
        settings: what heads may choose from, and the budget.
        on_step: called with (done, total) layers, over all batches.

    Raises:
        ConfigError: if there are no texts, or the shortest rule of all heads is beyond the budget.
        UnsupportedError: if the model's attention does not go through the seam, or caps its logits.
    """
    settings = settings or SpanSearchSettings()
    if not batches:
        raise ConfigError("a search for spans needs at least one batch of texts.")
    rules, n_examples = SpanRules.of(settings), sum(len(batch.tokens) for batch in batches)
    texts = [(batch.tokens.shape[1], batch) for batch in batches]
    influence = influence_by_length(model, texts, rules, settings, on_step=on_step)
    found = np.stack(list(influence.values()))
    return choose_spans(found, rules, tuple(influence), model.shape.n_kv_heads, settings, n_examples=n_examples)


def influence_by_length(
    model: HookedModel,
    texts: Sequence[tuple[int, AnswerBatch]],
    rules: SpanRules,
    settings: SpanSearchSettings,
    *,
    on_step: OnStep,
) -> dict[int, Float[np.ndarray, "rule layer head"]]:
    """What each rule does to the loss, mean over the batches of each length.

    Args:
        model: the model.
        texts: a length and a batch of that length, any number of batches for each length.
        rules: what heads may choose from.
        settings: how influence is estimated.
        on_step: called with (done, total) layers, over all batches.
    """
    n_layers, found = model.shape.n_layers, dict[int, list[np.ndarray]]()
    for index, (length, batch) in enumerate(texts):

        def step(done: int, _: int, before: int = index * n_layers) -> None:
            on_step(before + done, len(texts) * n_layers)

        influence = span_influence(
            model, batch, rules, estimate=settings.estimate, supervision=settings.supervision, on_step=step
        )
        found.setdefault(length, []).append(influence.mean(0))
    return {length: np.mean(parts, axis=0) for length, parts in found.items()}


def choose_spans(
    influence: Float[np.ndarray, "length rule layer head"],
    rules: SpanRules,
    lengths: tuple[int, ...],
    n_kv_heads: int,
    settings: SpanSearchSettings,
    *,
    n_examples: int = 0,
) -> SpanPlan:
    """The rules that raise the loss least within the budget.

    Where the cache is counted, the query heads of a group share a rule: the cache holds what the widest of them needs,
    so that a shorter window of another would save nothing.

    Raises:
        ConfigError: if the shortest rule of all heads is beyond the budget.
    """
    n_rules, n_layers, n_heads = influence.shape[1:]
    size = n_heads // n_kv_heads if settings.count == "cache" else 1
    harm = np.maximum(influence.mean(0), 0.0).reshape(n_rules, -1, size).sum(-1).T
    held = np.stack([rules.entries(length) / length for length in lengths])
    picked = _solve(harm, held, settings.budget)
    per_head = np.repeat(picked, size).reshape(n_layers, n_heads)
    return SpanPlan(
        rules.base[per_head],
        rules.slope[per_head],
        rules.sink,
        n_kv_heads,
        float(harm[np.arange(len(picked)), picked].sum()),
        lengths,
        n_examples,
    )


def _solve(
    harm: Float[np.ndarray, "unit rule"], held: Float[np.ndarray, "length rule"], budget: float
) -> Int[np.ndarray, " unit"]:
    """One rule for each unit: least total harm, and at each length a mean share held of at most the budget."""
    n_units, n_rules = harm.shape
    cost = harm + _THRIFT * (harm.max() or 1.0) * held.mean(0)
    one_each = sparse.kron(sparse.identity(n_units), np.ones((1, n_rules)), format="csr")
    spent = sparse.csr_array(np.tile(held / n_units, (1, n_units)))
    result = milp(
        cost.ravel() / cost.max(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spent, -np.inf, budget)],
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if result.x is None:
        raise ConfigError(
            f"no choice of windows keeps to {budget:g} of the cache: the shortest rule of all heads takes "
            f"{held.min(1).max():.3g} of it. Raise the budget, or offer shorter windows or fewer sinks."
        )
    return np.asarray(result.x).reshape(n_units, n_rules).argmax(-1)
