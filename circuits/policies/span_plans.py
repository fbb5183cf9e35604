"""Windows per head for several budgets, from one measurement of what shorter windows do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.span_influence import SpanRules
from circuits.policies.span_search import SpanPlan, choose_spans, influence_by_length
from headscope.errors import ConfigError
from headscope.tasks import build_needles, build_prose
from headscope.tasks.answers import AnswerBatch, needle_answers, prose_answers
from probes.probe import Bench, OnStep

_log = logging.getLogger(__name__)


def plan_spans(
    bench: Bench,
    budgets: Sequence[float],
    *,
    lengths: Sequence[int],
    examples: int,
    on_step: OnStep,
    on_left_out: Callable[[str], None] = _log.warning,
) -> dict[float, SpanPlan]:
    """A plan for each budget that some rule fits.

    Influence is measured on needle prompts and prose of each length, drawn from the text that heads may be chosen on,
    by one backward pass each; the loss is that of the model's own first choices, as in the paper.

    Args:
        bench: the model and its texts.
        budgets: shares of the full cache.
        lengths: of the texts.
        examples: texts of each kind and length.
        on_step: called with (done, total) layers.
        on_left_out: called with the reason, once for each budget that has no plan; by default it is logged.
    """
    settings = SpanSearchSettings()
    rules, texts = SpanRules.of(settings), [(n, batch) for n in lengths for batch in _texts(bench, n, examples)]
    influence = influence_by_length(bench.model, texts, rules, settings, on_step=on_step)
    plans = dict[float, SpanPlan]()
    for budget in budgets:
        try:
            plans[budget] = choose_spans(
                np.stack(list(influence.values())),
                rules,
                tuple(influence),
                bench.model.shape.n_kv_heads,
                settings.model_copy(update={"budget": budget}),
                n_examples=sum(len(batch.tokens) for _, batch in texts),
            )
        except ConfigError as error:
            on_left_out(f"searched windows for {budget:.1%} of the text are left out: {error}")
    return plans


def _texts(bench: Bench, length: int, n: int) -> list[AnswerBatch]:
    """One text at a time, so that the backward pass fits: needle prompts whose answers count, and prose."""
    generator = bench.generator(f"spans {length}")
    needles = build_needles(bench.model, bench.haystack, length=length, n=n, generator=generator, needles=bench.needles)
    prose = build_prose(bench.model, bench.haystack, n=n, length=length, generator=generator)
    batches = (needle_answers(needles), prose_answers(prose))
    return [batch.select(slice(i, i + 1)) for batch in batches for i in range(len(batch.tokens))]
