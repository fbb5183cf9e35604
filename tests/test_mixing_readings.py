"""Views of M that mean the same for every mixer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headscope.mixers.interface import Mix
from headscope.mixers.registry import variant as registered
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix, read_mixing
from headscope.tasks.synthetic_catalog import make_task
from probes.mixing_curve import matches_of
from probes.mixing_profile import (
    Matches,
    carry_profile,
    first_token,
    first_value_norm,
    match_profile,
    offset_profile,
    uniform_carries,
    uniform_first_token,
)

B, H, T, D, M = 2, 3, 6, 4, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def causal(matrix: Tensor) -> Tensor:
    return matrix.tril()


@pytest.fixture
def signed() -> LayerMix:
    return LayerMix(0, Mix(causal(random(B, H, T, T)), random(B, H, T, D, seed=1)), random(H, D, M, seed=2))


def test_the_share_and_what_moves_are_the_naive_ones(signed: LayerMix) -> None:
    matrix, value, W_O = signed.mix.matrix, signed.mix.value, signed.W_O
    for b in range(B):
        for h in range(H):
            for i in range(T):
                brought = [float((matrix[b, h, i, j] * value[b, h, j] @ W_O[h]).norm()) for j in range(T)]
                absolute = [abs(float(matrix[b, h, i, j])) for j in range(T)]
                assert signed.share[b, h, i].tolist() == pytest.approx([a / sum(absolute) for a in absolute], abs=1e-5)
                assert signed.moved[b, h, i].tolist() == pytest.approx([a / sum(brought) for a in brought], abs=1e-5)


def test_a_mixer_of_channels_brings_the_norm_of_its_channels_together() -> None:
    matrix, value, W_O = causal(random(B, H, D, T, T)), random(B, H, T, D, seed=1), random(H, D, M, seed=2)
    layer = LayerMix(0, Mix(matrix, value), W_O)
    b, h, i, j = 1, 2, 4, 3
    vector = sum(matrix[b, h, c, i, j] * value[b, h, j, c] * W_O[h, c] for c in range(D))
    assert isinstance(vector, Tensor)
    assert float(layer.moved_norm[b, h, i, j]) == pytest.approx(float(vector.norm()), rel=1e-4)
    energy = torch.tensor([value[b, h, :, c].square().mean() * W_O[h, c].norm() for c in range(D)])
    share = (matrix[b, h, :, i, j].abs() * energy).sum() / energy.sum()
    assert float(layer.weights[b, h, i, j]) == pytest.approx(float(share), rel=1e-4)


def test_channels_that_all_have_one_matrix_are_as_one_matrix() -> None:
    matrix, value, W_O = causal(random(B, H, T, T)), random(B, H, T, D, seed=1), random(H, D, M, seed=2)
    one, many = (LayerMix(0, Mix(part, value), W_O) for part in (matrix, matrix[:, :, None].expand(-1, -1, D, -1, -1)))
    for name in ("share", "moved", "row_mass", "negative_share", "support"):
        assert torch.allclose(getattr(one, name), getattr(many, name), atol=1e-5), name


def test_rows_of_both_signs_and_empty_rows() -> None:
    matrix = torch.zeros(1, 1, 2, 2)
    matrix[0, 0, 1] = torch.tensor([3.0, -1.0])
    layer = LayerMix(0, Mix(matrix, torch.ones(1, 1, 2, 1)), torch.ones(1, 1, 1))
    assert layer.share[0, 0].tolist() == [[0, 0], [0.75, 0.25]]
    assert layer.row_mass[0, 0].tolist() == [0, 2]
    assert layer.negative_share[0, 0].tolist() == [0, 0.25]
    assert layer.support[0, 0, 1] == pytest.approx(
        float(torch.tensor([0.75, 0.25]).log().mul(torch.tensor([-0.75, -0.25])).sum().exp())
    )


def test_a_token_whose_value_is_drained_has_a_share_and_moves_nothing() -> None:
    matrix = torch.tensor([[[[1.0, 0.0], [0.9, 0.1]]]])
    value = torch.tensor([[[[0.0], [2.0]]]])
    layer = LayerMix(0, Mix(matrix, value), torch.ones(1, 1, 1))
    assert float(first_token(layer.share)) == pytest.approx(0.9)
    assert float(first_token(layer.moved)) == 0
    assert float(first_value_norm(layer)) == 0


def test_a_second_reading_counts_as_its_token() -> None:
    matrix = torch.tensor([[[[0.5, 0.2, 0.3]]]])
    mix = Mix(matrix, torch.ones(1, 1, 3, 1), columns=("past",), column_positions=(0,))
    assert LayerMix(0, mix, torch.ones(1, 1, 1)).share[0, 0, 0].tolist() == pytest.approx([0.8, 0.2, 0.0])


def test_profiles_are_means_over_the_cells_they_name() -> None:
    weights = random(B, H, T, T).abs()
    found = offset_profile(weights, (0, 2))
    assert float(found[1, 2, 1]) == pytest.approx(
        float(torch.stack([weights[1, 2, i, i - 2] for i in (2, 3, 4, 5)]).mean())
    )
    matches = Matches(torch.tensor([[4, 5], [3, 5]]), torch.tensor([[1, 2], [-1, 4]]))
    profile = match_profile(weights, matches, (0, 2))
    assert profile[0, 1].tolist() == pytest.approx(
        [float((weights[0, 1, 4, 1] + weights[0, 1, 5, 2]) / 2), float((weights[0, 1, 4, 3] + weights[0, 1, 5, 4]) / 2)]
    )
    assert profile[1, 1].tolist() == pytest.approx([float(weights[1, 1, 5, 4]), 0.0]), (
        "one has no match, one ends the text"
    )


def test_a_row_with_two_matches_has_the_weight_of_both() -> None:
    weights = random(1, H, T, T).abs()
    twice = Matches(torch.tensor([[4, 5, 4, 5]]), torch.tensor([[0, 1, 2, -1]]))
    assert twice.asked.tolist() == [2]
    found = match_profile(weights, twice, (0,))[0, 1]
    assert float(found) == pytest.approx(float((weights[0, 1, 4, 0] + weights[0, 1, 4, 2] + weights[0, 1, 5, 1]) / 2))


def test_pairs_that_are_written_down_twice_are_matched_in_both_places() -> None:
    task = make_task("mqar", d_vocab=64, length=32, pairs=4, passes=2)
    batch = task.batch(3, torch.Generator().manual_seed(0))
    assert batch.tokens is not None
    key = torch.stack([row[:, None] == row for row in batch.tokens])[:, None].float()  # all on equal tokens, evenly
    weights = key.tril(-1) / key.tril(-1).sum(-1, keepdim=True).clamp_min(1)
    matches = Matches(batch.marks["query"], batch.marks["key"])
    assert match_profile(weights, matches, (0,)).flatten().tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("task", "answer"),
    [("mqar", "value"), ("induction", "induction"), ("copying", "source"), ("ngram-lookup", "source")],
)
def test_the_answer_stands_behind_the_match_and_a_previous_token_head_carries_the_match_there(
    task: str, answer: str
) -> None:
    batch = make_task(task).batch(4, torch.Generator().manual_seed(0))
    matches, length = matches_of(batch), batch.targets.shape[1]
    assert matches is not None
    example, rows, keys = batch.cells(answer)
    retrieving = torch.zeros(4, 1, length, length)
    retrieving[example, 0, rows, keys] = 1
    assert match_profile(retrieving, matches).squeeze(1).tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]] * 4
    previous = torch.eye(length).roll(1, 0).tril(-1).expand(4, 1, -1, -1)
    assert carry_profile(previous, matches).squeeze(1).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 4


@pytest.mark.parametrize(("variant", "weighed"), [("moh", True), ("softmax", False)])
def test_weights_of_heads_are_those_of_the_hook(variant: str, weighed: bool) -> None:
    sizes = {"d_vocab": 9, "n_ctx": T, "d_model": 16, "n_heads": 4}
    model = Decoder(DecoderConfig.parse(sizes | dict(registered(variant).config))).eval()
    tokens = torch.randint(0, 9, (B, T), generator=torch.Generator().manual_seed(0))
    layers = read_mixing(model, tokens)
    seen = list[Tensor]()
    with torch.no_grad():
        hook = ("blocks.1.attn.hook_head_weight", lambda weight, hook: seen.append(weight))  # noqa: ARG005
        model.run_with_hooks(tokens, fwd_hooks=[hook])
    if not weighed:
        assert [layer.head_weight for layer in layers] == [None, None]
        return
    assert layers[1].head_weight is not None
    assert layers[1].head_weight.shape == (B, T, 4)
    assert torch.equal(layers[1].head_weight, seen[0])
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_a_carry_is_the_weight_of_rows_behind_the_match_that_come_before_the_question() -> None:
    weights = random(B, H, T, T).abs()
    matches = Matches(torch.tensor([[4, 5], [3, 5]]), torch.tensor([[1, 2], [-1, 4]]))
    found = carry_profile(weights, matches, (1, 3))
    assert found[0, 1].tolist() == pytest.approx([float((weights[0, 1, 2, 1] + weights[0, 1, 3, 2]) / 2), 0.0]), (
        "three behind the match is the question itself, or after it"
    )
    assert found[1, 1].tolist() == [0.0, 0.0], "one has no match, the other's question follows at once"


def test_a_text_shorter_than_the_offsets_has_its_last_row() -> None:
    weights = random(B, H, 3, 3).abs()
    found = offset_profile(weights, (0, 2, 8))
    assert found[0, 1].tolist() == pytest.approx([float(weights[0, 1, 2, 2]), float(weights[0, 1, 2, 0]), 0.0])


def test_uniform_rows_have_the_uniform_carries() -> None:
    task = make_task("mqar", d_vocab=64, length=32, pairs=4)
    batch = task.batch(8, torch.Generator().manual_seed(0))
    matches = Matches(batch.marks["query"], batch.marks["key"])
    assert uniform_carries(matches)[0] == pytest.approx((1 / 2 + 1 / 4 + 1 / 6 + 1 / 8) / 4)


def test_uniform_rows_have_the_uniform_weight_on_the_first_token() -> None:
    rows = torch.ones(1, 1, T, T).tril()
    assert float(first_token(rows / rows.sum(-1, keepdim=True))) == pytest.approx(uniform_first_token(T))


@pytest.mark.parametrize("mixer", ["softmax", "delta", "mamba", "lstm"])
def test_a_reading_is_m_of_every_layer_and_leaves_nothing_behind(mixer: str) -> None:
    model = Decoder(DecoderConfig.parse({"d_vocab": 9, "n_ctx": T, "d_model": 16, "mixer": mixer})).eval()
    tokens = torch.randint(0, 9, (B, T), generator=torch.Generator().manual_seed(0))
    layers = read_mixing(model, tokens)
    assert [layer.layer for layer in layers] == [0, 1]
    assert all(layer.mix.matrix.shape[-2:] == (T, T) for layer in layers)
    assert all(not layer.mix.matrix.requires_grad for layer in layers)
    assert [layer.on_mix for layer in model.mixing_layers] == [None, None]
    if mixer == "softmax":
        _, cache = model.run_with_cache(tokens)
        assert torch.equal(layers[1].mix.matrix, cache["blocks.1.attn.hook_pattern"])
