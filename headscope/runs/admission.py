"""What may enter a run: an open stage, scores of its model, each once, and the samples behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headscope.errors import RunError
from headscope.heads import HeadScores
from headscope.runs.manifest import Manifest, ModelRecord


def refuse_strangers(
    manifest: Manifest,
    stage: str,
    scores: Sequence[HeadScores] = (),
    samples: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Check a stage before any of it is written.

    Raises:
        RunError: if the stage is not planned or is in already, a score is of another model or comes twice, or
            samples belong to no score of the stage or have another shape than ``[n, layer, head]``.
    """
    if stage not in manifest.missing_stages:
        raise RunError(f"the run {manifest.id} waits for no stage {stage!r}: it was not planned, or is in.")
    given = samples or {}
    known = [definition["name"] for definition in manifest.definitions]
    names = [score.name for score in scores]
    if len({*known, *names}) < len(known) + len(names) or not {*given} <= {*names}:
        raise RunError(
            f"the stage {stage!r} brings the scores {names} and samples of {sorted(given)}; "
            f"the run has the scores {known}. A score comes once, and samples belong to a score."
        )
    for score in scores:
        _refuse_other_model(score, manifest.model)
    for name, part in given.items():
        if part.ndim != 3 or part.shape[1:] != (manifest.model.n_layers, manifest.model.n_heads):
            raise RunError(f"the samples of {name!r} have the shape {part.shape}, not [n, layer, head].")


def _refuse_other_model(score: HeadScores, model: ModelRecord) -> None:
    given = (score.model, *score.values.shape, score.n_kv_heads)
    wanted = (model.name, model.n_layers, model.n_heads, model.n_kv_heads)
    if given != wanted:
        raise RunError(
            f"the score {score.name!r} is of another model than its run: {given}, not {wanted} "
            "(name, layers, heads, key/value heads)."
        )
