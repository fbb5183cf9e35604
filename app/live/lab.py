"""Answer a `LabRequest`, part by part; a part that the model cannot do is refused with its reason, the rest stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from app.live import ablated_runs
from app.live.changed_run import ChangedRun, Ran
from app.live.clean_text import Check, CleanText, Tell, checked
from app.live.named_tokens import choose_pair, name_token
from app.live.random_heads import draw_for
from app.live.requests import LabRequest
from app.live.results import Attribution, LabResult, Lens, ModelFacts, NamedToken, Outcome, RandomSet, Refusal
from headscope.captures import CapturedText
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.readings.capturing import token_text
from probes.direct_logits import attribute
from probes.logit_lens import logit_lens

T = TypeVar("T")
_SHOWN, _LENS = 50, 5
_NOTEWORTHY_GAP = 1e-2  # logits


@dataclass
class _Lab:
    """One request under work."""

    model: HookedModel
    clean: CleanText
    request: LabRequest
    heads: list[Head]
    tell: Tell
    check: Check
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    reservations: list[str] = field(default_factory=list[str])

    def attempt(self, part: str, work: Callable[[], T]) -> T | None:
        """The part, or None with its refusal noted."""
        self.check()
        try:
            return work()
        except UnsupportedError as error:
            self.refusals.append(Refusal(part, f"this model cannot do that, because {error}"))
            return None


def run_lab(model: HookedModel, clean: CleanText, request: LabRequest, *, tell: Tell, check: Check) -> LabResult:
    """Everything a `LabResult` holds, from a clean run of the text.

    Args:
        model: the model.
        clean: the clean run of the request's text and row.
        request: what is asked.
        tell: told what is being done: (message, done, total).
        check: called before every layer and part; raises to stop.

    Raises:
        HeadscopeError: if the request itself cannot work (tokens A and B).
    """
    started = time.perf_counter()
    a, b = choose_pair(model, clean.logits, request.token_a, request.token_b)
    lab = _Lab(model, clean, request, request.parsed_heads, tell, check)
    with checked(model, check):
        changed, kl, sets = _changed(lab, a, b)
        captured, captured_ablated = _captures(lab)
        lens = lab.attempt("lens", lambda: _lens(lab, a, b))
        attribution = lab.attempt("attribution", lambda: _attribution(lab, a, b))
    _reserve(lab, attribution)
    found = [clean.logits] if changed is None else [clean.logits, changed.logits]
    return LabResult(
        model=model.name,
        facts=model_facts(model),
        text=token_text(model, clean.ids),
        position=clean.row,
        a=a,
        b=b,
        tokens=_likeliest(model, found),
        clean=_outcome(clean.logits, clean.loss, a, b),
        ablated=None if changed is None else _outcome(changed.logits, changed.loss, a, b),
        kl=kl,
        lens=lens,
        attribution=attribution,
        random_sets=sets,
        captured_clean=captured,
        captured_ablated=captured_ablated,
        refusals=tuple(lab.refusals),
        reservations=tuple(lab.reservations),
        path=str(model.last_path),
        seconds=time.perf_counter() - started,
        cost=None if changed is None else changed.cost,
    )


def model_facts(model: HookedModel) -> ModelFacts:
    """Which weights a model has, and their shape."""
    s = model.shape
    return ModelFacts(
        source=model.source,
        revision=model.revision,
        n_layers=s.n_layers,
        n_heads=s.n_heads,
        n_kv_heads=s.n_kv_heads,
        d_head=s.d_head,
        d_model=s.d_model,
        n_ctx=s.n_ctx,
    )


def _changed(lab: _Lab, a: NamedToken, b: NamedToken) -> tuple[Ran | None, float | None, tuple[RandomSet, ...]]:
    """The changed run, its KL, and the random sets."""
    change = lab.request.change
    if not change:
        return None, None, ()
    if lab.clean.run is None:
        lab.refusals.append(Refusal(change, f"this model cannot do that, because {lab.clean.refusal}"))
        return None, None, ()
    sets, notes = draw_for(lab.model, lab.request)
    lab.reservations += notes
    lab.tell(lab.request.changed_run, 0, 1)
    changing = lab.attempt(change, lambda: ablated_runs.prepare(lab.clean, lab.request))
    ran = None if changing is None else lab.attempt(change, lambda: changing.run(lab.heads))
    if changing is None or ran is None:
        return None, None, ()
    lab.reservations += [*changing.notes, *ran.notes]
    return ran, divergence(lab.clean.logits, ran.logits), tuple(_random_sets(lab, changing, sets, a, b))


def _random_sets(
    lab: _Lab, changing: ChangedRun, sets: list[list[Head]], a: NamedToken, b: NamedToken
) -> list[RandomSet]:
    done: list[RandomSet] = []
    for index, heads in enumerate(sets):
        lab.check()
        lab.tell("random heads", index + 1, len(sets))
        ran = changing.run(heads)
        outcome = _outcome(ran.logits, ran.loss, a, b)
        kl = divergence(lab.clean.logits, ran.logits)
        done.append(RandomSet(tuple(str(head) for head in heads), outcome.logit_diff, kl, outcome.mean_loss))
    return done


def _captures(lab: _Lab) -> tuple[CapturedText | None, CapturedText | None]:
    """Attention of the clean run, and of the changed one where there is one."""
    if not lab.request.captures:
        return None, None
    lab.tell("reading attention", 0, 1)
    clean, change = lab.attempt("captures", lab.clean.captures), lab.request.change
    if clean is None or not change or lab.clean.run is None:
        return clean, None
    part = f"captures of the {lab.request.changed_run}"
    return clean, lab.attempt(part, lambda: ablated_runs.prepare(lab.clean, lab.request).captures(lab.heads))


def _outcome(logits: Tensor, loss: Tensor, a: NamedToken, b: NamedToken) -> Outcome:
    return Outcome(logits.cpu().numpy(), float(logits[a.id] - logits[b.id]), loss.cpu().numpy())


def divergence(clean: Float[Tensor, " d_vocab"], ablated: Float[Tensor, " d_vocab"]) -> float:
    """KL(clean || ablated) in nats, in float64; at least 0."""
    p, q = (logits.cpu().double().log_softmax(-1) for logits in (clean, ablated))
    return max(float((p.exp() * (p - q)).sum()), 0.0)


def _likeliest(model: HookedModel, runs: Sequence[Tensor]) -> tuple[NamedToken, ...]:
    """The 50 likeliest tokens of each run, those of the first run first."""
    ids = [int(token) for logits in runs for token in torch.topk(logits, min(_SHOWN, len(logits))).indices]
    unique = list(dict.fromkeys(ids))
    pieces = token_text(model, unique).pieces
    return tuple(NamedToken(token, piece) for token, piece in zip(unique, pieces, strict=True))


def _lens(lab: _Lab, a: NamedToken, b: NamedToken) -> Lens:
    logits = logit_lens(lab.clean.states)
    drift = float((logits[-1] - lab.clean.logits).abs().max())
    if drift > _NOTEWORTHY_GAP:
        lab.reservations.append(
            f"The lens after the last layer differs from the model's logits by up to {drift:.2g}: the model does more "
            "to its logits than norm and unembedding."
        )
    probability = logits.softmax(-1)
    top = torch.topk(probability, min(_LENS, logits.shape[-1]))
    text = tuple(tuple(name_token(lab.model, int(token)).text for token in row) for row in top.indices)
    return Lens(
        top_ids=top.indices.cpu().numpy(),
        top_text=text,
        top_probability=top.values.cpu().numpy(),
        probability_a=probability[:, a.id].cpu().numpy(),
        probability_b=probability[:, b.id].cpu().numpy(),
        logit_diff=(logits[:, a.id] - logits[:, b.id]).cpu().numpy(),
    )


def _attribution(lab: _Lab, a: NamedToken, b: NamedToken) -> Attribution:
    parts = attribute(lab.clean.states, lab.clean.logits, a=a.id, b=b.id)
    return Attribution(
        head=parts.head.numpy(),
        mlp=parts.mlp.numpy(),
        attention_bias=parts.attention_bias.numpy(),
        embed=parts.embed,
        final_bias=parts.final_bias,
        total=parts.total,
        real=parts.real,
    )


def _reserve(lab: _Lab, attribution: Attribution | None) -> None:
    """What a reader must know besides."""
    if lab.request.bos and lab.model.bos is None:
        lab.reservations.append("The tokenizer names no start token, so none was put first.")
    if len(lab.clean.ids) == 1:
        lab.reservations.append("A text of one token has no next token to lose on.")
    if attribution is not None and abs(attribution.gap) > _NOTEWORTHY_GAP:
        lab.reservations.append(
            f"The attribution adds up to {attribution.total:.3f}, the logits differ by {attribution.real:.3f}: the "
            "rest is rounding, or what the model does to its logits after the unembedding (a cap, a factor)."
        )
