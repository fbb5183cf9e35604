"""Ways to choose the key/value heads that keep everything: each is a score of heads, and a rule that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from circuits.policies.duo_gates import DUO_GATE, GateTraining
from circuits.policies.gate_texts import passkey_batches
from circuits.policies.head_split import HeadSplit, strongest_split
from circuits.policies.razor_heads import ECHO, INDUCTION, razor_scores, razor_split
from circuits.policies.search_settings import GateSettings, PasskeySettings, RazorHeadSettings
from headscope.errors import TaskError, UnknownNameError
from headscope.heads import HeadScores
from probes.census import PROBES, measure
from probes.probe import Bench, OnStep, Samples

_PROBES = {"retrieval": "retrieval", "induction": "induction"}
_TIGHT = 0.85  # words differ in tokens: what fits this share of the length once fits the whole of it always
RULES = ("duo-gate", "razor", *_PROBES)


@dataclass(frozen=True)
class GatePlan:
    """How DuoAttention's gates are trained.

    Attributes:
        steps: training steps.
        length: tokens of each text.
        sink: first tokens that streaming heads see.
        recent: most recent tokens that they see.
    """

    steps: int
    length: int
    sink: int
    recent: int


def choose_heads(bench: Bench, rule: str, plan: GatePlan, *, on_step: OnStep) -> tuple[list[HeadScores], Samples]:
    """The scores that a rule reads, and their samples.

    Args:
        bench: the model, and the text that heads may be chosen on.
        rule: one of `RULES`.
        plan: of the gates.
        on_step: called with (done, total).

    Raises:
        UnknownNameError: for an unknown rule.
        HeadscopeError: if the model cannot be measured that way.
    """
    if rule == "duo-gate":
        return [_gates(bench, plan, on_step)], {}
    if rule == "razor":
        return list(razor_scores(bench.model, _razor_probe(bench), on_step=on_step)), {}
    if rule in _PROBES:
        return measure(bench, PROBES[_PROBES[rule]], on_step=on_step)
    raise UnknownNameError.of("rule", rule, RULES)


def split_by(rule: str, scores: Mapping[str, HeadScores], share: float) -> HeadSplit:
    """The split of a rule, from scores by name.

    RazorAttention's 1 % of echo heads stays 1 %; induction heads make up the rest of the share.

    Raises:
        UnknownNameError: for an unknown rule.
    """
    if rule == "razor":
        echo = min(RazorHeadSettings().echo_share, share)
        settings = RazorHeadSettings(echo_share=echo, induction_share=share - echo)
        return razor_split(scores[ECHO.name], scores[INDUCTION.name], settings)
    if rule == "duo-gate":
        return strongest_split(scores[DUO_GATE.name], share)
    if rule in _PROBES:
        return strongest_split(scores[rule], share)
    raise UnknownNameError.of("rule", rule, RULES)


def refuse_impossible_rule(bench: Bench, rule: str, plan: GatePlan) -> None:
    """Refuse a rule that this model cannot be measured by, before anything long is started.

    Raises:
        TaskError: if its tokenizer or context does not suffice.
    """
    if rule == "duo-gate":
        _passkeys(bench, plan)
    elif rule == "razor":
        _razor_probe(bench)


def _gates(bench: Bench, plan: GatePlan, on_step: OnStep) -> HeadScores:
    """DuoAttention's gates; all query heads of a group have its value, so that they stand in one table with others."""
    training = GateTraining(bench.model, GateSettings(sink=plan.sink, recent=plan.recent, steps=plan.steps))
    batches = passkey_batches(bench.model, bench.haystack, _passkeys(bench, plan))
    found = training.train(batches, lambda step: on_step(step.step, plan.steps))
    return found.for_query_heads(bench.model.shape.n_heads)


def _passkeys(bench: Bench, plan: GatePlan) -> PasskeySettings:
    """Texts of one length, with as many of the release's ten passkeys of 32 words as fit.

    Raises:
        TaskError: if not even one of four words fits, or the tokenizer does not know the words.
    """
    reason: TaskError | None = None
    for passkeys, words in ((10, 32), (10, 16), (5, 16), (5, 8), (2, 8), (1, 4)):
        sizes = {"shortest": plan.length, "longest": plan.length, "passkeys": passkeys, "words": words}
        settings = PasskeySettings(seed=bench.config.seed, **sizes)
        tight = int(plan.length * _TIGHT)
        try:
            trial = settings.model_copy(update={"shortest": tight, "longest": tight})
            next(iter(passkey_batches(bench.model, bench.haystack, trial)))
            return settings
        except TaskError as error:
            reason = error
    assert reason is not None
    raise reason


def _razor_probe(bench: Bench) -> RazorHeadSettings:
    """The probe with the longest of its usual periods that fits the context and the vocabulary.

    Raises:
        TaskError: if none fits.
    """
    shape, settings = bench.model.shape, RazorHeadSettings(seed=bench.config.seed)
    for period in (256, 128, 64, 32, 16):
        if period * settings.copies + 1 <= shape.n_ctx and 2 * period <= shape.d_vocab:
            return settings.model_copy(update={"period": period})
    raise TaskError(
        f"the context of {bench.model.name!r} ({shape.n_ctx} tokens) or its vocabulary ({shape.d_vocab}) is too small "
        "for RazorAttention's probe of four copies of 16 random tokens. Choose heads by another rule."
    )
