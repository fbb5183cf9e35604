"""The long-text measurement equals plain sums over whole patterns, sliding windows and capped logits included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from circuits.policies.masks import Streaming
from circuits.policies.policy import applied
from headscope.attention import AttentionCall, tap
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.readings.capturing import capture
from probes.long_text import measure_long_text, span_mass

Tiny = Callable[[str], BridgedModel]
MODELS = ["llama", "gpt2", "mistral, window 8", "gemma2, window 8, capped"]
TOKENS = [0, *torch.randint(1, 96, (39,), generator=torch.Generator().manual_seed(3)).tolist()]


@pytest.fixture(params=MODELS)
def measured(request: pytest.FixtureRequest, tiny: Tiny) -> tuple[BridgedModel, dict[Head, np.ndarray]]:
    """A small model and the whole pattern of each of its heads, held to TransformerLens in test_captures."""
    model = tiny(request.param)
    captured = capture(model, TOKENS, name="t", title="t")
    return model, {head: captured.pattern(head).rows().astype(np.float64) for head in captured.heads}


def test_masses_are_sums_over_the_pattern(measured: tuple[BridgedModel, dict[Head, np.ndarray]]) -> None:
    model, patterns = measured
    found = measure_long_text(model, TOKENS)
    size = len(TOKENS)
    for head, pattern in patterns.items():
        seen = np.array([[_sees(model, head, i, j) for j in range(size)] for i in range(size)])
        assert_allclose(found.column_mass[head], pattern.sum(0) / seen.sum(0), atol=2e-6, err_msg=str(head))
        assert_allclose(found.previous_mass[head], np.mean([pattern[i, i - 1] for i in range(1, size)]), atol=2e-6)
        assert_allclose(found.row_mass[head], pattern[-1], atol=2e-6)


def test_mass_on_a_span_is_a_mean_over_its_rows(measured: tuple[BridgedModel, dict[Head, np.ndarray]]) -> None:
    model, patterns = measured
    found: dict[int, np.ndarray] = {}

    def reader(call: AttentionCall) -> None:
        found[call.layer] = span_mass(call, first_row=30, rows=[5], spans=[(25, 28)])[0].numpy()

    with torch.no_grad(), tap(model.plain, reader=reader):
        model.logits(torch.tensor([TOKENS]))
    for head, pattern in patterns.items():
        assert_allclose(found[head.layer][head.head], pattern[30:35, 25:28].sum(1).mean(), atol=2e-6, err_msg=str(head))


@pytest.mark.parametrize("name", MODELS)
def test_masses_under_a_policy_are_of_its_pattern(tiny: Tiny, name: str) -> None:
    model, found = tiny(name), dict[int, np.ndarray]()

    def reader(call: AttentionCall) -> None:
        found[call.layer] = span_mass(call, first_row=30, rows=[5], spans=[(25, 28)])[0].numpy()

    with applied(model, Streaming(2, 6)):
        captured = capture(model, TOKENS, name="t", title="t")
        masses = measure_long_text(model, TOKENS)
        with tap(model.plain, reader=reader):
            model.logits(torch.tensor([TOKENS]))
    for head in captured.heads:
        pattern = captured.pattern(head).rows().astype(np.float64)
        assert_allclose(masses.row_mass[head], pattern[-1], atol=2e-6)
        assert masses.row_mass[head][2:-6].max() == 0
        assert_allclose(masses.previous_mass[head], np.diagonal(pattern, -1).mean(), atol=2e-6)
        assert_allclose(found[head.layer][head.head], pattern[30:35, 25:28].sum(1).mean(), atol=2e-6)


def _sees(model: BridgedModel, head: Head, row: int, key: int) -> bool:
    """Whether a row of this layer sees a key: the configuration's own word, not the code under test."""
    config = model.plain.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = window is not None and (kinds is None or kinds[head.layer] == "sliding_attention")
    return key <= row and (not slides or key > row - window)
