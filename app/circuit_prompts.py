"""The stage of a circuit run that keeps its prompts, and how well the model does them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from app.circuit_seeker import Seeker
from app.running import Steps
from headscope.models.anatomy import Anatomy
from headscope.readings.capturing import token_text
from headscope.runs import RunWriter
from headscope.tasks.contrast import NO_TOKEN, ContrastBatch

_SHOWN_PAIRS = 64


def save_prompts(writer: RunWriter, stage: str, steps: Steps, seeker: Seeker) -> None:
    """The pairs as tokens with their named positions, and how well the model does them."""
    shown = seeker.seen.select(range(min(_SHOWN_PAIRS, len(seeker.seen))))
    model = seeker.anatomy.model
    text = token_text(model, sorted({*shown.clean.unique().tolist(), *shown.corrupted.unique().tolist()}))
    pieces = dict(zip(text.ids, text.pieces, strict=True))
    told = seeker.performance
    record: dict[str, Any] = {
        "kind": "circuit_prompts",
        "task": seeker.config.task,
        "n": len(seeker.seen),
        "judged": len(seeker.judged),
        "performance": dataclasses.asdict(told) | {"passes": told.passes, "one_line": told.one_line()},
        "pieces": {str(token): piece for token, piece in pieces.items()},
        "pairs": [
            _pair(shown, index, model) | {"clean_difference": clean, "corrupted_difference": corrupted}
            for index, (clean, corrupted) in enumerate(_differences(seeker.anatomy, shown))
        ],
    }
    writer.save_record(stage, record, seconds=steps.seconds)


@torch.no_grad()
def _differences(anatomy: Anatomy, shown: ContrastBatch) -> list[tuple[float, float]]:
    """Logit difference of each pair: clean, corrupted."""
    batch, found = shown.to(anatomy.model.device), list[tuple[float, float]]()
    for rows in torch.arange(len(batch)).split(16):
        part = batch.select(rows)
        clean, corrupted = (
            part.logit_difference(anatomy.run(tokens, part.end).logits).tolist()
            for tokens in (part.clean, part.corrupted)
        )
        found += zip(clean, corrupted, strict=True)
    return found


def _pair(batch: ContrastBatch, index: int, model: Any) -> dict[str, Any]:
    size = int(batch.end[index]) + 1
    ids = {
        side: [token for token in rows[index].tolist() if token != NO_TOKEN]
        for side, rows in (("right", batch.right), ("wrong", batch.wrong))
    }
    answers = {side: [model.decode([token]) for token in tokens] for side, tokens in ids.items()}
    return {
        "clean": batch.clean[index, :size].tolist(),
        "corrupted": batch.corrupted[index, :size].tolist(),
        "template": int(batch.template[index]),
        "positions": {name: int(rows[index]) for name, rows in batch.positions.items()},
        **answers,
        **{f"{side}_ids": tokens for side, tokens in ids.items()},
    }
