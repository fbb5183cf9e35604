"""Heads of a small model while it is trained: profiles and pictures at every evaluation, on one fixed batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix, read_mixing
from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask
from probes.mixing_profile import (
    CARRY_OFFSETS,
    MATCH_OFFSETS,
    VIEWS,
    Matches,
    View,
    carry_profile,
    first_token,
    first_value_norm,
    match_profile,
    offset_profile,
    view_of,
)

_OFFSETS = (0, 1, 2)


@dataclass(frozen=True)
class Picture:
    """M of one example at one step.

    Attributes:
        step: steps taken before.
        share: where rows look; see `headscope.readings.mixing`.
        moved: what they bring.
    """

    step: int
    share: Float[Tensor, "layer head row column"]
    moved: Float[Tensor, "layer head row column"]


@dataclass
class MixingCurve:
    """The probe: call it with a model and a step.

    Attributes:
        batch: the fixed examples.
        pictures: one for each call, of the first example.
    """

    batch: SyntheticBatch
    pictures: list[Picture] = field(default_factory=list[Picture])

    @classmethod
    def of(cls, task: SyntheticTask[Any], *, n: int, seed: int, device: torch.device) -> MixingCurve:
        """On ``n`` examples of a task, drawn with ``seed``."""
        return cls(task.held_out.batch(n, torch.Generator(device).manual_seed(seed)))

    def __call__(self, model: Decoder, step: int) -> dict[str, float]:
        """Profiles of every head: ``share.offset.1.L0H0``, ``moved.match.1.L1H0``, ``first_norm.L0H0``, ..."""
        layers = read_mixing(model, self.batch.given)
        self.pictures.append(
            Picture(
                step,
                torch.stack([layer.share[0, :, :, : layer.mix.n_tokens].half().cpu() for layer in layers]),
                torch.stack([layer.moved[0, :, :, : layer.mix.n_tokens].half().cpu() for layer in layers]),
            )
        )
        found: dict[str, float] = {}
        for layer in layers:
            for name, values in self._numbers(layer).items():
                found |= {f"{name}.L{layer.layer}H{head}": float(value) for head, value in enumerate(values)}
        return found

    def _numbers(self, layer: LayerMix) -> dict[str, Tensor]:
        """Numbers of each head of a layer, mean over the examples."""
        found = {"first_norm": first_value_norm(layer).mean(0), "row_mass": layer.row_mass.mean((0, 2))}
        if layer.mix.null_mass is not None:
            found["null_mass"] = layer.mix.null_mass.float().mean((0, 2))
        matches = matches_of(self.batch)
        for view in VIEWS:
            found |= _profile(layer, view, matches)
        return found

    def spread(self, count: int) -> list[Picture]:
        """At most ``count`` pictures, evenly over the calls, the first and the last among them."""
        if count <= 0 or not self.pictures:
            return []
        places = torch.linspace(0, len(self.pictures) - 1, min(count, len(self.pictures))).round().int().tolist()
        return [self.pictures[place] for place in dict.fromkeys(places)]


def matches_of(batch: SyntheticBatch) -> Matches | None:
    """The asked rows and the place of their match, where the task tells them."""
    name = next((name for name in ("key", "duplicate") if name in batch.marks), None)
    return None if name is None else Matches(batch.marks["query"], batch.marks[name])


def _profile(layer: LayerMix, view: View, matches: Matches | None) -> dict[str, Tensor]:
    weights = view_of(layer, view)
    offsets = offset_profile(weights, _OFFSETS).mean(0)
    found = {f"{view}.offset.{d}": offsets[:, i] for i, d in enumerate(_OFFSETS)}
    found[f"{view}.first"] = first_token(weights).mean(0)
    if matches is not None:
        cells = match_profile(weights, matches).mean(0)
        found |= {f"{view}.match.{d}": cells[:, i] for i, d in enumerate(MATCH_OFFSETS)}
        carried = carry_profile(weights, matches).mean(0)
        found |= {f"{view}.carry.{d}": carried[:, i] for i, d in enumerate(CARRY_OFFSETS)}
    return found
