"""What the model process answers: frozen dataclasses of numpy. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int

from headscope.captures import CapturedText, TokenText


@dataclass(frozen=True)
class NamedToken:
    """A token of the vocabulary and its text."""

    id: int
    text: str


@dataclass(frozen=True)
class Outcome:
    """What one run predicts.

    Attributes:
        logits: at the position looked at, float32.
        logit_diff: logit of A minus logit of B there.
        loss: cross-entropy of each next token, nats; entry i is of token i + 1.
    """

    logits: Float[np.ndarray, " d_vocab"]
    logit_diff: float
    loss: Float[np.ndarray, " pair"]

    @property
    def mean_loss(self) -> float:
        """Mean of ``loss`` in nats per token; NaN for a text of one token."""
        return float(self.loss.mean()) if len(self.loss) else float("nan")


@dataclass(frozen=True)
class Lens:
    """The logit lens at the position: row l is the stream before block l, the last the stream after the last block.

    Attributes:
        top_ids: five most likely tokens, most likely first.
        top_text: their text.
        top_probability: their probabilities.
        probability_a: probability of A.
        probability_b: probability of B.
        logit_diff: logit of A minus logit of B.
    """

    top_ids: Int[np.ndarray, "stage five"]
    top_text: tuple[tuple[str, ...], ...]
    top_probability: Float[np.ndarray, "stage five"]
    probability_a: Float[np.ndarray, " stage"]
    probability_b: Float[np.ndarray, " stage"]
    logit_diff: Float[np.ndarray, " stage"]


@dataclass(frozen=True)
class Attribution:
    """Logit of A minus logit of B in the clean run, by what was written directly (see `probes.direct_logits`).

    Attributes:
        head: of each head.
        mlp: of each MLP.
        attention_bias: of each attention's output bias.
        embed: of the embeddings.
        final_bias: of the final norm's and the unembedding's biases.
        total: sum of all.
        real: the real difference.
    """

    head: Float[np.ndarray, "layer head"]
    mlp: Float[np.ndarray, " layer"]
    attention_bias: Float[np.ndarray, " layer"]
    embed: float
    final_bias: float
    total: float
    real: float

    @property
    def gap(self) -> float:
        """Real difference minus the sum."""
        return self.real - self.total


@dataclass(frozen=True)
class PolicyCost:
    """What a run under a policy took.

    Attributes:
        from_row: first position that the policy acted on; the text before it was read in full.
        kv_bytes: keys and values in the cache after the last token.
        full_kv_bytes: those of the full cache.
        share_attended: keys attended over those of full attention, over the positions that the policy acted on.
        whole: labels of the heads that kept everything, where the policy keeps some.
    """

    from_row: int
    kv_bytes: float
    full_kv_bytes: float
    share_attended: float
    whole: tuple[str, ...] = ()

    @property
    def share_kept(self) -> float:
        """Of the full cache; above 1 where a policy keeps more than keys and values, such as bounds of pages."""
        return self.kv_bytes / self.full_kv_bytes


@dataclass(frozen=True)
class RandomSet:
    """As many random heads of the same layers, ablated or calibrated the same way, or kept whole in their place.

    Attributes:
        heads: their labels.
        logit_diff: as in `Outcome`.
        kl: KL(clean || ablated) at the position, nats.
        loss: mean next-token loss, nats.
    """

    heads: tuple[str, ...]
    logit_diff: float
    kl: float
    loss: float


@dataclass(frozen=True)
class Refusal:
    """A part that this model cannot do.

    Attributes:
        part: ablation, captures, attribution, lens or random sets.
        reason: a sentence: "this model cannot do that, because ...".
    """

    part: str
    reason: str


@dataclass(frozen=True)
class ModelFacts:
    """Which weights answered, and their shape; the fields of a run's `ModelRecord` without the name."""

    source: str
    revision: str | None
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    n_ctx: int


@dataclass(frozen=True)
class LabResult:
    """The answer to a `LabRequest`.

    Attributes:
        model: the model's name.
        facts: which weights answered, and their shape.
        text: tokens and their text.
        position: row looked at, from 0.
        a: token A.
        b: token B.
        tokens: the 50 most likely tokens of both runs.
        clean: the untouched run.
        ablated: the changed run: heads ablated or calibrated, or a policy on; None without a change, or if the model
            cannot.
        kl: KL(clean || ablated) at the position in nats, or None.
        lens: logit lens of the clean run, or None.
        attribution: direct logit attribution of the clean run, or None.
        random_sets: the comparison, in the order drawn.
        captured_clean: queries and keys of the clean run, or None.
        captured_ablated: those of the changed run, or its patterns where they are no softmax of these; or None.
        refusals: parts that this model cannot do.
        reservations: what a reader of the numbers must know.
        path: the face of the model that was used.
        seconds: time taken, without loading.
        cost: what the policy took, or None without one.
    """

    model: str
    facts: ModelFacts
    text: TokenText
    position: int
    a: NamedToken
    b: NamedToken
    tokens: tuple[NamedToken, ...]
    clean: Outcome
    ablated: Outcome | None
    kl: float | None
    lens: Lens | None
    attribution: Attribution | None
    random_sets: tuple[RandomSet, ...]
    captured_clean: CapturedText | None
    captured_ablated: CapturedText | None
    refusals: tuple[Refusal, ...]
    reservations: tuple[str, ...]
    path: str
    seconds: float
    cost: PolicyCost | None = None

    @property
    def n_tokens(self) -> int:
        """T."""
        return len(self.text)


@dataclass(frozen=True)
class CaptureResult:
    """The answer to a `CaptureRequest`."""

    model: str
    captured: CapturedText
    reservations: tuple[str, ...]
    path: str
    seconds: float


@dataclass(frozen=True)
class PairOutcome:
    """What one run of a pair predicts.

    Attributes:
        logit_difference: log odds of a right answer over a wrong one, nats; above 0 a right one is likelier.
        likeliest: the likeliest next tokens, first choice first.
        probability: their probabilities.
    """

    logit_difference: float
    likeliest: tuple[NamedToken, ...]
    probability: Float[np.ndarray, " token"]


@dataclass(frozen=True)
class PairResult:
    """The answer to a `PairRequest`.

    Attributes:
        model: the model's name.
        facts: which weights answered, and their shape.
        clean: the clean prompt.
        corrupted: its twin, judged by the clean prompt's answers.
        ablated: the clean prompt, the heads writing what they wrote in the twin; all else is computed on from that.
        seconds: time taken, without loading.
    """

    model: str
    facts: ModelFacts
    clean: PairOutcome
    corrupted: PairOutcome
    ablated: PairOutcome
    seconds: float


Result = LabResult | CaptureResult | PairResult
_KNOWN: tuple[type[Result], ...] = (LabResult, CaptureResult, PairResult)
RESULTS: dict[str, type[Result]] = dict(zip(("lab", "capture", "pair"), _KNOWN, strict=True))


def size_of(value: Any) -> int:
    """Bytes of all arrays inside a result."""
    return sum(array.nbytes for array in _arrays(value))


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in cast("tuple[Any, ...]", value):
            yield from _arrays(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _arrays(getattr(value, field.name))
