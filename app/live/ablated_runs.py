"""Ablated runs of a text, and the changed run that any request asks for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from app.live.calibrated_runs import Calibrating
from app.live.changed_run import ChangedRun, Opened
from app.live.clean_text import CleanText
from app.live.policy_runs import govern
from app.live.requests import LabRequest
from circuits.interventions import Ablation, Reference, ablate
from headscope.heads import Head
from headscope.tasks import build_prose
from probes.probe import Bench, ProbeConfig

_PASSAGES, _REFERENCE_TOKENS = 8, 8192


@dataclass(frozen=True)
class Ablating(ChangedRun):
    """Ablates heads.

    Attributes:
        kind: which ablation.
        reference: z of passages of prose, for mean and resample.
    """

    kind: Ablation = Ablation.ZERO
    reference: Reference | None = None

    @contextmanager
    def opened(self, heads: Sequence[Head]) -> Generator[Opened, None, None]:
        """The heads' z replaced."""
        with ablate(self.clean.model, heads, self.kind, reference=self.reference):
            yield Opened()


def prepare(clean: CleanText, request: LabRequest) -> ChangedRun:
    """Get ready to change any heads as a request asks: run the reference passages where the ablation needs some.

    Raises:
        TaskError: if there is not enough prose for passages as long as the text.
    """
    if not request.policy:
        return _by_heads(clean, request)
    return govern(clean, request, _by_heads(clean, request) if request.heads else None)


def _by_heads(clean: CleanText, request: LabRequest) -> ChangedRun:
    if request.ablation == "act":
        return Calibrating(clean)
    kind = Ablation(request.ablation)
    if kind not in (Ablation.MEAN, Ablation.RESAMPLE):
        return Ablating(clean, (), kind)
    reference = _reference(clean, request.seed)
    n = len(reference.order)
    source = (
        f"passages of {len(clean.ids)} tokens of the built-in prose that no head is scored on (seed {request.seed})"
    )
    if kind is Ablation.MEAN:
        note = f"Mean ablation: z is the head's mean over all rows of {n} {source}."
        return Ablating(clean, (note,), kind, reference)
    chosen = int(reference.order[0])
    one = {layer: z[chosen : chosen + 1].clone() for layer, z in reference.z.items()}
    note = f"Resample ablation: z is the head's own at the same position of one of {n} {source}."
    return Ablating(clean, (note,), kind, Reference(one, torch.zeros(1, dtype=torch.long)))


def _reference(clean: CleanText, seed: int) -> Reference:
    """z of every layer on passages as long as the text; kept with the clean run."""
    if seed not in clean.references:
        model, length = clean.model, len(clean.ids)
        bench = Bench(model, ProbeConfig(seed=seed))
        n = max(2, min(_PASSAGES, _REFERENCE_TOKENS // length))
        passages = build_prose(model, bench.held_out, n=n, length=length, generator=bench.generator("live reference"))
        generator = torch.Generator().manual_seed(seed)
        layers = [Head(layer, 0) for layer in range(model.shape.n_layers)]
        clean.references.clear()
        clean.references[seed] = Reference.capture(model, passages, layers, generator=generator)
    return clean.references[seed]
