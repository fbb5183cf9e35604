"""Landmarks, segments, memories and pointers: limiting cases and what decoding keeps; and the entries of policies."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.policies.catalog import POLICIES
from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape
from headscope.mixers.registry import variants

LENGTH = 12


def mixer(kind: str, **settings: Any) -> Mixer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_mixer(kind, MixerShape(2, 4, 4, 16, 32), settings).double()


def random_input(length: int = LENGTH, *, causal: bool = True) -> MixerInput:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, length, 4, generator=generator, dtype=torch.float64)
    return MixerInput(query, key, value, scale=0.5, causal=causal)


def matrix(of: Mixer, given: MixerInput) -> Tensor:
    with torch.no_grad():
        return of.mix(given).matrix


def full(given: MixerInput) -> Tensor:
    return given.scores.masked_fill(~given.visible, -torch.inf).softmax(-1)


def set_to(of: Mixer, **values: float) -> Mixer:
    with torch.no_grad():
        for name, value in values.items():
            of.get_parameter(name).fill_(value)
    return of


def block_mask(given: MixerInput, size: int) -> Tensor:
    """Softmax in each row's own block."""
    same = given.rows[:, None] // size == given.columns // size
    return given.scores.masked_fill(~(same & given.visible), -torch.inf).softmax(-1)


@pytest.mark.parametrize("block", [1, LENGTH, 2 * LENGTH], ids=["every-token", "one-block", "longer-than-the-text"])
def test_landmarks_of_blocks_of_one_and_of_a_single_block_are_softmax(block: int) -> None:
    given = random_input()
    torch.testing.assert_close(matrix(mixer("landmark", block=block), given), full(given))


def test_a_block_gets_what_its_landmark_draws() -> None:
    given = random_input()
    cells = matrix(mixer("landmark", block=4), given)
    row, scores = 10, given.scores[:, :, 10].exp()
    group = scores[..., [3, 7, 8, 9, 10]]
    landmarks = group[..., :2] / group.sum(-1, keepdim=True)
    torch.testing.assert_close(cells[:, :, row, :8].unflatten(-1, (2, 4)).sum(-1), landmarks)
    inside = cells[:, :, row, 4:8] / cells[:, :, row, 4:8].sum(-1, keepdim=True)
    torch.testing.assert_close(inside, scores[..., 4:8] / scores[..., 4:8].sum(-1, keepdim=True))


def test_transformer_xl_without_its_terms_and_with_a_long_memory_is_softmax() -> None:
    given = random_input()
    plain = set_to(mixer("transformer-xl", segment=4, memory=LENGTH), W_R=0.0, content_bias=0.0, position_bias=0.0)
    torch.testing.assert_close(matrix(plain, given), full(given))


def test_transformer_xl_sees_its_segment_and_the_memory_before_it() -> None:
    cells = matrix(mixer("transformer-xl", segment=4, memory=2), random_input())[0, 0] > 0
    seen = [[max(row // 4 * 4 - 2, 0), row] for row in range(LENGTH)]
    assert [[int(row.nonzero().min()), int(row.nonzero().max())] for row in cells] == seen


def test_transformer_xl_positions_are_relative() -> None:
    given = random_input()
    alike = {name: getattr(given, name)[:, :, :1].expand(-1, -1, LENGTH, -1).clone() for name in ("query", "key")}
    relative = mixer("transformer-xl", segment=LENGTH, memory=0)
    with torch.no_grad():
        for parameter in relative.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    logs = matrix(relative, replace(given, **alike)).log()
    for apart in range(1, 5):
        ratio = torch.stack([logs[:, :, row, row - apart] - logs[:, :, row, row] for row in range(5, LENGTH)])
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        assert float(ratio.abs().min()) > 1e-3


@pytest.mark.parametrize("delta", [False, True], ids=["sums", "delta"])
def test_infini_attention_with_its_gate_shut_is_softmax_in_each_segment(delta: bool) -> None:
    given = random_input()
    shut = mixer("infini", segment=4, delta=delta, gate=-60.0)
    torch.testing.assert_close(matrix(shut, given), block_mask(given, 4))


def test_infini_attention_with_its_gate_open_is_linear_attention_to_earlier_segments() -> None:
    given = random_input()
    cells = matrix(mixer("infini", segment=4, gate=60.0), given)
    linear = build_mixer("linear", MixerShape(2, 4, 4, 16, 32), {})
    for begin in (4, 8):
        rows = slice(begin, begin + 4)
        past = MixerInput(
            given.query[:, :, rows], given.key[:, :, :begin], given.value[:, :, :begin], scale=1.0, causal=False
        )
        torch.testing.assert_close(cells[:, :, rows, :begin], matrix(linear, past), atol=1e-5, rtol=1e-5)
        assert bool((cells[:, :, rows, begin:].abs() < 1e-9).all())


def test_the_delta_rule_changes_nothing_before_there_is_something_to_subtract() -> None:
    given = random_input()
    sums, delta = (matrix(mixer("infini", segment=4, delta=delta), given) for delta in (False, True))
    torch.testing.assert_close(sums[:, :, :8], delta[:, :, :8])
    assert float((sums - delta)[:, :, 8:].abs().max()) > 1e-2


def test_the_delta_rule_replaces_what_the_memory_held_for_a_key() -> None:
    given = random_input(3)
    given = replace(given, key=given.key[:, :, :1].expand(-1, -1, 3, -1).clone())
    sums, delta = (
        matrix(mixer("infini", segment=1, delta=delta, gate=60.0), given)[:, :, 2] for delta in (False, True)
    )
    torch.testing.assert_close(sums, torch.tensor([0.5, 0.5, 0.0]).to(sums).expand_as(sums))
    torch.testing.assert_close(delta, torch.tensor([0.0, 0.5, 0.0]).to(sums).expand_as(sums))  # n counts both still


def test_slots_in_the_first_segment_are_columns_beside_the_tokens() -> None:
    given, slots = random_input(), mixer("segment-memory", segment=LENGTH, slots=3)
    mix = slots.mix(given)
    by_slot = torch.einsum("bhqe,hme->bhqm", given.query, slots.get_parameter("first_key")) * given.scale
    scores = torch.cat([given.scores.masked_fill(~given.visible, -torch.inf), by_slot], -1)
    torch.testing.assert_close(mix.matrix, scores.softmax(-1))
    assert (mix.n_tokens, mix.columns, mix.column_positions) == (LENGTH, ("memory",) * 3, (-1,) * 3)


def test_a_gate_that_keeps_everything_leaves_slots_as_they_were() -> None:
    given = random_input()
    kept = set_to(mixer("segment-memory", segment=4, slots=2, gate=True), gate=60.0)
    by_slot = torch.einsum("bhqe,hme->bhqm", given.query, kept.get_parameter("first_key")) * given.scale
    same = given.rows[:, None] // 4 == given.columns // 4
    scores = given.scores.masked_fill(~(same & given.visible), -torch.inf)
    torch.testing.assert_close(matrix(kept, given), torch.cat([scores, by_slot], -1).softmax(-1))


def test_one_slot_reads_the_same_whether_slots_are_apart_or_not() -> None:
    given = random_input()
    one, apart = (matrix(mixer("segment-memory", slots=1, segment=4, apart=apart), given) for apart in (False, True))
    torch.testing.assert_close(one, apart)


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
def test_a_slot_reads_another_one_unless_they_are_apart(apart: bool) -> None:
    given, slots = random_input(), mixer("segment-memory", slots=2, segment=4, query="memory", apart=apart)
    before = read_segment(slots, given)
    with torch.no_grad():
        slots.get_parameter("first_value")[:, 1] += 1.0
        slots.get_parameter("first_key")[:, 1] *= -1.0
    after = read_segment(slots, given)
    for name in ("slot_key", "slot_value"):
        assert torch.equal(before[name][:, :, 0], after[name][:, :, 0]) is apart
        assert not torch.equal(before[name][:, :, 1], after[name][:, :, 1])


def read_segment(slots: Mixer, given: MixerInput) -> dict[str, Tensor]:
    """The state after the first four tokens."""
    state = slots.start(given.token(0))
    with torch.no_grad():
        for at in range(4):
            _, state = slots.step(state, given.token(at))
    return state


def test_what_a_segment_wrote_reaches_the_next_one_through_slots_only() -> None:
    given = random_input()
    with_past, without = (matrix(mixer("segment-memory", segment=4, past=past), given) for past in (1, 0))
    for cells in (with_past, without):
        torch.testing.assert_close(cells.sum(-1), torch.ones_like(cells[..., 0]))
        assert bool((cells[:, :, 8:, :LENGTH].sum(-1) > 0).all())
        rank = torch.linalg.matrix_rank(cells[0, 0, 8:, :4], tol=1e-9)
        assert int(rank) <= 2, "two segments back, through two slots"
    assert int(torch.linalg.matrix_rank(with_past[0, 0, 8:, 4:8], tol=1e-9)) == 4


def test_all_found_in_one_softmax_is_softmax() -> None:
    given = random_input()
    all_found = mixer("retrieved-memory", window=2, count=LENGTH, together="softmax")
    torch.testing.assert_close(matrix(all_found, given), full(given))


@pytest.mark.parametrize("gate", [-60.0, 60.0], ids=["near", "far"])
def test_a_gate_at_its_end_sees_only_near_or_only_found_tokens(gate: float) -> None:
    given = random_input()
    mix = set_to(mixer("retrieved-memory", window=3, count=2), gate=gate).mix(given)
    far = given.offsets >= 3
    shown = given.visible & ~far if gate < 0 else torch.where(far.any(-1, keepdim=True), far, given.visible)
    assert mix.choice is not None
    seen = mix.matrix > 1e-12
    assert bool((seen <= (mix.choice & shown)).all())
    torch.testing.assert_close(mix.matrix.sum(-1), torch.ones_like(mix.matrix[..., 0]))


def test_found_tokens_are_the_best_of_those_further_back() -> None:
    given = random_input()
    choice = mixer("retrieved-memory", window=3, count=2).mix(given).choice
    assert choice is not None
    for row in range(3, LENGTH):
        best = given.scores[:, :, row, : row - 2].topk(min(2, row - 2)).indices.sort().values
        found = choice[:, :, row, : row - 2].nonzero()[:, -1].reshape(best.shape)
        assert torch.equal(found, best)


def test_a_pointer_that_does_not_look_at_keys_points_everywhere_alike() -> None:
    given = random_input(causal=False)
    cells = matrix(set_to(mixer("pointer"), W_1=0.0), given)
    torch.testing.assert_close(cells, torch.full_like(cells, 1 / LENGTH))


def test_small_additive_scores_are_those_of_the_keys_alone() -> None:
    given, small = random_input(), mixer("pointer")
    with torch.no_grad():
        small.get_parameter("W_1").mul_(1e-4)
        small.get_parameter("W_2").mul_(1e-4)
        small.get_parameter("direction").mul_(1e4)  # tanh is straight here, and the query adds the same to each key
    by_key = torch.einsum("bhke,hef,hf->bhk", given.key, small.get_parameter("W_1"), small.get_parameter("direction"))
    scores = by_key[:, :, None].expand(-1, -1, LENGTH, -1).masked_fill(~given.visible, -torch.inf)
    torch.testing.assert_close(matrix(small, given), scores.softmax(-1), atol=1e-5, rtol=1e-5)


STATES: dict[str, tuple[str, dict[str, Any], list[int]]] = {  # at 4, 7, 8, 9 and 80 tokens, segments of 4
    "infini": ("infini", {"segment": 4}, [40, 40 + 48, 40, 40 + 16, 40]),
    "slots": ("segment-memory", {"segment": 4, "slots": 2}, [32, 32 + 48, 32, 32 + 16, 32]),
    "slots-and-past": (
        "segment-memory",
        {"segment": 4, "slots": 2, "past": 1},
        [32 + 64, 32 + 112, 32 + 64, 32 + 80, 32 + 64],
    ),
    "transformer-xl": ("transformer-xl", {"segment": 4, "memory": 4}, [1 + 64, 1 + 112, 1 + 64, 1 + 80, 1 + 64]),
}


@pytest.mark.parametrize("name", STATES)
def test_decoding_keeps_a_segment_and_the_memory(name: str) -> None:
    kind, settings, sizes = STATES[name]
    assert [mixer(kind, **settings).state_size(length) for length in (4, 7, 8, 9, 80)] == sizes


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("landmark", {"block": 0}),
        ("infini", {"segment": 0}),
        ("segment-memory", {"past": 2}),
        ("retrieved-memory", {"together": "sum"}),
        ("transformer-xl", {"memory": -1}),
    ],
    ids=["landmark", "infini", "segment-memory", "retrieved-memory", "transformer-xl"],
)
def test_impossible_settings_are_refused_by_name(kind: str, settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        mixer(kind, **settings)


def policy_entries() -> dict[str, str]:
    """The policies that entries name, and their sources."""
    return {str(e.config["policy"]): e.source for e in variants().values() if e.name.startswith("policy-")}


def test_every_policy_has_an_entry_and_every_entry_a_policy() -> None:
    assert set(policy_entries()) == set(POLICIES)
    assert all(variants()[f"policy-{name}"].status == "policy" for name in POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_cites_what_its_entry_cites(name: str) -> None:
    cited = re.findall(r"\d{4}\.\d{5}", POLICIES[name].source)
    assert not cited or policy_entries()[name] in cited
