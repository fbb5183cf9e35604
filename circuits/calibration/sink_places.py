"""Where sinks sit: first token, punctuation, early, later; and one head's attention before and after calibration.

Source of the question: Yu et al. 2024, arXiv 2406.15765, who find sinks beyond the first token.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.calibration.act import calibrate_rows, calibrated_layer, heads_by_layer
from circuits.calibration.results import SINK_PLACES, BeforeAfter, ClassSinks, SinkMap, SinkSpot
from circuits.calibration.sinks import lengths_of, only_heads, pattern_rows, received_mass, sinks_among
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, tap
from headscope.heads import Head
from headscope.models.protocol import HookedModel

_EARLY = 4


def is_punctuation(text: str) -> bool:
    """Whether a token's text is punctuation or a line break, and nothing else but blanks."""
    bare = text.strip()
    if not bare:
        return "\n" in text
    return all(unicodedata.category(character)[0] == "P" for character in bare)


def punctuation_among(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Which tokens are punctuation or line breaks."""
    kinds, where = tokens.cpu().unique(return_inverse=True)
    return torch.tensor([is_punctuation(model.decode([int(kind)])) for kind in kinds])[where]


def places_of(punctuation: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Index into `SINK_PLACES` of every position."""
    position = torch.arange(punctuation.shape[1]).expand_as(punctuation)
    place = torch.where(position < _EARLY, SINK_PLACES.index("early"), SINK_PLACES.index("later"))
    place = torch.where(punctuation, SINK_PLACES.index("punctuation"), place)
    return torch.where(position == 0, SINK_PLACES.index("first"), place)


@torch.no_grad()
def map_sinks(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    settings: ActSettings,
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    punctuation: Bool[Tensor, "batch pos"] | None = None,
) -> SinkMap:
    """Where the sinks of every head of the uncalibrated model sit, the first one included.

    Args:
        model: the model.
        tokens: texts, padded on the right.
        settings: the bound.
        lengths: real tokens of each text; all by default.
        punctuation: which tokens are punctuation; by default as `punctuation_among` sees it.
    """
    real = lengths_of(lengths, len(tokens), tokens.shape[1], torch.device("cpu"))
    place = places_of(punctuation_among(model, tokens) if punctuation is None else punctuation.cpu())
    size = (model.shape.n_layers, model.shape.n_heads, len(SINK_PLACES))
    counts, mass, spots = np.zeros(size), np.zeros(size), list[SinkSpot]()
    everything = settings.model_copy(update={"keep_first": False})

    def reader(call: AttentionCall) -> None:
        received = received_mass(call, real).cpu()
        sinks = sinks_among(received, real[:, None].expand(received.shape[:2]), everything)
        seen_by = (real[:, None] - torch.arange(tokens.shape[1])).clamp_min(0)
        on_sinks = received * seen_by[:, None] / real[:, None, None]  # share of all rows' attention
        for index in range(len(SINK_PLACES)):
            here = sinks & (place == index)[:, None]
            counts[call.layer, :, index] = here.sum(-1).double().mean(0).numpy()
            mass[call.layer, :, index] = (on_sinks * here).sum(-1).double().mean(0).numpy()
        spots.extend(_spots(model, call.layer, tokens, sinks, received, place))

    model.last_path = "plain"
    with tap(model.plain, reader=reader):
        model.plain.base_model(input_ids=tokens.to(model.device), use_cache=False)
    return SinkMap(model.name, counts, mass, len(tokens), tuple(spots))


def _spots(
    model: HookedModel,
    layer: int,
    tokens: Int[Tensor, "batch pos"],
    sinks: Bool[Tensor, "batch head key"],
    received: Float[Tensor, "batch head key"],
    place: Int[Tensor, "batch pos"],
) -> list[SinkSpot]:
    return [
        SinkSpot(
            text,
            Head(layer, head),
            position,
            model.decode([int(tokens[text, position])]),
            SINK_PLACES[int(place[text, position])],
            float(received[text, head, position]),
        )
        for text, head, position in sinks.nonzero().tolist()
    ]


def sinks_by_class(found: SinkMap, classes: Mapping[str, Sequence[Head]]) -> tuple[ClassSinks, ...]:
    """Mean over the heads of each class; classes without heads are left out.

    Args:
        found: sinks of every head.
        classes: heads by class name; a head may be in several.
    """
    return tuple(
        ClassSinks(
            name,
            len(heads),
            np.mean([found.counts[head] for head in heads], axis=0),
            np.mean([found.mass[head] for head in heads], axis=0),
        )
        for name, heads in classes.items()
        if heads
    )


@torch.no_grad()
def before_and_after(model: HookedModel, tokens: Int[Tensor, " pos"], head: Head, settings: ActSettings) -> BeforeAfter:
    """One head's pattern on a text, as it is and calibrated.

    Raises:
        HeadIndexError: for a head that the model does not have.
    """
    heads_by_layer(model, [head])
    found = dict[str, np.ndarray]()

    def reader(call: AttentionCall) -> None:
        if call.layer != head.layer:
            return
        chosen = only_heads(call, [head.head])
        memory = calibrated_layer(settings, [head.head], None)
        memory.look(chosen)
        pattern = pattern_rows(chosen, 0, len(tokens))
        sinks = memory.sinks(pattern, 0).expand_as(pattern)
        after = calibrate_rows(pattern, sinks, beta=settings.beta, receive_first=settings.receive_first)
        for name, part in (("before", pattern), ("after", after), ("sinks", sinks.tril())):
            found[name] = part[0, 0].cpu().numpy()

    model.last_path = "plain"
    with tap(model.plain, reader=reader):
        model.plain.base_model(input_ids=tokens[None].to(model.device), use_cache=False)
    return BeforeAfter(head, tuple(model.decode([int(token)]) for token in tokens), **found)
