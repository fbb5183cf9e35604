"""Attention calibration against loops over the dense pattern: which columns are sinks, and what becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from circuits.calibration.act import Act, SinksSoFar, calibrate_rows, heads_by_layer, heads_in_range
from circuits.calibration.outputs import calibrated
from circuits.calibration.sinks import find_sinks, received_mass
from circuits.policies.policy import applied
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, AttentionInput, tap
from headscope.errors import ConfigError, HeadIndexError, UnsupportedError
from headscope.heads import Head
from headscope.kernels import expand_kv
from headscope.models.bridged import BridgedModel

Tiny = Callable[[str], BridgedModel]
SIZE, PROMPT, TOLERANCE = 24, 17, 1e-5
WHOLE = {"skip_first": 0, "skip_last": 0}
RULES: dict[str, dict[str, Any]] = {
    "paper": {"alpha": 1.5},
    "first sink too": {"alpha": 1.5, "keep_first": False},
    "fixed bound": {"threshold": 0.1},
    "first token gets nothing": {"alpha": 1.5, "receive_first": False},
    "fed": {"alpha": 1.5, "beta": 1.6},
    "fed beyond what others have": {"alpha": 1.2, "beta": 30.0, "keep_first": False, "receive_first": False},
}
by_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def act(**given: Any) -> ActSettings:
    return ActSettings.parse({**WHOLE, **given})


def naive_pattern(call: AttentionCall) -> Tensor:
    """Softmax over the keys that a row may see."""
    logits = call.query.float() @ expand_kv(call.key, call.query.shape[1]).float().mT * call.scale
    if call.softcap is not None:
        logits = call.softcap * (logits / call.softcap).tanh()
    size = logits.shape[-1]
    apart = torch.arange(size)[:, None] - torch.arange(size)
    seen = (apart >= 0) & (apart < (call.window or size))
    return logits.masked_fill(~seen, -torch.inf).softmax(-1)


def naive_sinks(pattern: Tensor, settings: ActSettings) -> set[int]:
    """Of one head's square pattern, by the definition."""
    size, rows = len(pattern), pattern.tolist()
    bound = settings.alpha / size if settings.threshold is None else settings.threshold
    found = [t for t in range(size) if sum(rows[i][t] for i in range(t, size)) / (size - t) > bound]
    return set(found[1:] if settings.keep_first else found)


def naive_row(row: list[float], sinks: set[int], settings: ActSettings) -> list[float]:
    """One row, by the formula and the two rules for what it leaves open."""
    others = [t for t in range(len(row)) if t not in sinks and (t > 0 or settings.receive_first)]
    held, room = sum(row[t] for t in sinks), sum(row[t] for t in others)
    if held == 0 or room == 0:
        return row
    moved = max((1 - settings.beta) * held, -room)
    changed = list(row)
    for t in sinks:
        changed[t] = row[t] * (held - moved) / held
    for t in others:
        changed[t] = row[t] + moved * row[t] / room
    return changed


def naive_calibration(pattern: Tensor, settings: ActSettings) -> Tensor:
    """One head's square pattern, calibrated."""
    size = len(pattern)
    rows = []
    for i in range(size):
        judged = pattern if settings.sinks == "prompt" else pattern[: i + 1, : i + 1]
        sinks = {t for t in naive_sinks(judged, settings) if t <= i}
        rows.append(naive_row(pattern[i, : i + 1].tolist(), sinks, settings) + [0.0] * (size - i - 1))
    return torch.tensor(rows)


def tokens_of(model: BridgedModel, batch: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randint(0, model.shape.d_vocab, (batch, size), generator=torch.Generator().manual_seed(seed))


def first_call(model: BridgedModel, tokens: Tensor) -> AttentionCall:
    """What the first layer's attention is called with."""
    calls = list[AttentionCall]()
    with torch.no_grad(), tap(model.plain, reader=calls.append):
        model.plain.base_model(input_ids=tokens, use_cache=False)
    return calls[0]


def for_lengths(policy: Act, lengths: int | Tensor) -> Act:
    """The same for texts of these lengths."""
    return Act(policy.settings, policy.heads, lengths=lengths)


def patterns_under(model: BridgedModel, policy: Act, tokens: Tensor) -> list[Tensor]:
    found = list[Tensor]()
    with torch.no_grad(), applied(model, policy), tap(model.plain, reader=lambda call: found.append(call.pattern)):  # type: ignore[arg-type]
        model.plain.base_model(input_ids=tokens, use_cache=False)
    return found


def logits_under(model: BridgedModel, policy: Act, tokens: Tensor, pieces: Iterable[int] = ()) -> Tensor:
    cache, found, start = DynamicCache(), list[Tensor](), 0
    with torch.no_grad(), applied(model, policy):
        for size in pieces or (tokens.shape[1],):
            part = tokens[:, start : start + size]
            found.append(model.plain(input_ids=part, past_key_values=cache, use_cache=True).logits)
            start += size
    return torch.cat(found, 1)


def random_call(size: int, batch: int = 2, heads: int = 4, groups: int = 2, seed: int = 0) -> AttentionInput:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, size, 8, generator=generator)
    key, value = (torch.randn(batch, groups, size, 8, generator=generator) for _ in range(2))
    return AttentionInput(0, query, key, value, 0.5)


@by_rule
@pytest.mark.parametrize("name", ["llama", "mistral, window 8", "gemma2, window 8, capped"])
def test_sinks_are_those_of_the_definition(tiny: Tiny, name: str, rule: dict[str, Any]) -> None:
    model, settings = tiny(name), act(**rule)
    call = first_call(model, tokens_of(model))
    lengths = torch.tensor([SIZE, PROMPT])
    found, pattern, seen = find_sinks(call, settings, lengths), naive_pattern(call), 0
    for text, length in enumerate(lengths.tolist()):
        for head in range(model.shape.n_heads):
            wanted = naive_sinks(pattern[text, head, :length, :length], settings)
            assert set(found[text, head].nonzero()[:, 0].tolist()) == wanted
            seen += len(wanted)
    assert seen > 0


def test_the_mass_received_does_not_depend_on_the_chunks() -> None:
    call = random_call(300)
    pattern = naive_pattern(call)  # type: ignore[arg-type]
    for length in (300, 270, 100):
        mass = received_mass(call, length)
        wanted = pattern[:, :, :length, :length].sum(2) / torch.arange(length, 0, -1)
        assert (mass[..., :length] - wanted).abs().max() < 1e-6
        assert mass[..., length:].abs().max() == 0 if length < 300 else True


@by_rule
@pytest.mark.parametrize("sinks", ["prompt", "so far"])
def test_calibrated_rows_are_those_of_the_formula(tiny: Tiny, sinks: str, rule: dict[str, Any]) -> None:
    model, settings = tiny("llama"), act(sinks=sinks, **rule)
    tokens = tokens_of(model)
    plain = naive_pattern(first_call(model, tokens))
    found = patterns_under(model, Act.build(model, settings), tokens)
    for text in range(len(tokens)):
        for head in range(model.shape.n_heads):
            wanted = naive_calibration(plain[text, head], settings)
            assert (found[0][text, head] - wanted).abs().max() < 1e-6
    assert (found[0] - plain).abs().max() > 0.01
    for pattern in found:
        assert (pattern.sum(-1) - 1).abs().max() < TOLERANCE
        assert pattern.min() >= 0
        assert (pattern[..., 0, 0] == 1).all()


@pytest.mark.parametrize(
    ("beta", "receive_first", "wanted"),
    [
        (0.4, True, [0.2 + 0.12, 0.2, 0.3 + 0.18]),
        (0.4, False, [0.2, 0.2, 0.6]),
        (0.0, True, [0.4, 0.0, 0.6]),
        (1.0, True, [0.2, 0.5, 0.3]),
        (1.5, True, [0.1, 0.75, 0.15]),
        (3.0, True, [0.0, 1.0, 0.0]),
        (3.0, False, [0.2, 0.8, 0.0]),
    ],
)
def test_one_row_by_hand(beta: float, receive_first: bool, wanted: list[float]) -> None:
    row, sinks = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[False, True, False]])
    assert torch.allclose(calibrate_rows(row, sinks, beta=beta, receive_first=receive_first), torch.tensor([wanted]))


def test_a_row_in_which_nothing_receives_stays() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.7, 0.0]])
    sinks = torch.tensor([[True, True, False]])
    assert torch.equal(calibrate_rows(rows, sinks, beta=0.4), rows)


@pytest.mark.parametrize("sinks", ["prompt", "so far"])
def test_beta_1_is_the_model_exactly(tiny: Tiny, sinks: str) -> None:
    model = tiny("llama")
    tokens, settings = tokens_of(model), act(beta=1.0, alpha=1.2, sinks=sinks)
    with torch.no_grad():
        with tap(model.plain):
            plain = model.plain(input_ids=tokens).logits
        with calibrated(model, heads_in_range(model, settings), settings):
            assert torch.equal(model.plain(input_ids=tokens).logits, plain)


@pytest.mark.parametrize("sinks", ["prompt", "so far"])
def test_the_edit_of_z_gives_what_the_policy_gives(tiny: Tiny, sinks: str) -> None:
    model, heads = tiny("llama"), [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2)]
    tokens, settings, lengths = tokens_of(model), act(alpha=1.5, sinks=sinks), torch.tensor([SIZE, PROMPT])
    with torch.no_grad(), calibrated(model, heads, settings, lengths=lengths):
        edited = model.plain(input_ids=tokens, use_cache=False).logits
    policy = Act(settings, heads_by_layer(model, heads), lengths=lengths)
    assert (edited - logits_under(model, policy, tokens)).abs().max() < TOLERANCE
    assert (edited - model.logits(tokens)).abs().max() > 1e-3


def test_only_the_chosen_heads_are_calibrated(tiny: Tiny) -> None:
    model = tiny("llama")
    tokens = tokens_of(model)
    plain = naive_pattern(first_call(model, tokens))
    found = patterns_under(model, Act.build(model, act(alpha=1.5, heads=("L0H2",))), tokens)[0]
    changed = (found - plain).abs().amax((0, 2, 3)) > TOLERANCE
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("told", [True, False], ids=["lengths told", "lengths not told"])
def test_texts_of_a_batch_have_sinks_of_their_own(tiny: Tiny, told: bool) -> None:
    """A padded text gives what it gives alone, once its length is told; pads would else vote for sinks."""
    model, settings = tiny("llama"), act(alpha=1.5)
    tokens, policy = tokens_of(model, 3), Act.build(model, settings)
    lengths = [SIZE, PROMPT, 11]
    together = logits_under(model, for_lengths(policy, torch.tensor(lengths)) if told else policy, tokens)
    gaps = []
    for text, length in enumerate(lengths):
        alone = logits_under(model, policy, tokens[text : text + 1, :length])
        gaps.append(float((together[text, :length] - alone[0]).abs().max()))
    assert (max(gaps) < TOLERANCE) == told


def test_decoding_keeps_the_sinks_of_the_prompt(tiny: Tiny) -> None:
    model = tiny("llama")
    tokens, policy = tokens_of(model), Act.build(model, act(alpha=1.5))
    whole = logits_under(model, for_lengths(policy, PROMPT), tokens)
    for pieces in ((PROMPT, *[1] * (SIZE - PROMPT)), (PROMPT, 3, SIZE - PROMPT - 3)):
        assert (logits_under(model, policy, tokens, pieces) - whole).abs().max() < TOLERANCE
    assert (logits_under(model, policy, tokens) - whole).abs().max() > 1e-3


@pytest.mark.parametrize(("sinks", "looks_ahead"), [("prompt", True), ("so far", False)])
def test_sinks_of_the_prompt_look_ahead_inside_it(tiny: Tiny, sinks: str, looks_ahead: bool) -> None:
    model = tiny("llama")
    tokens, policy = tokens_of(model), Act.build(model, act(alpha=1.5, sinks=sinks))
    other = tokens.clone()
    other[:, 14:] = (other[:, 14:] + 5) % model.shape.d_vocab
    one, two = (logits_under(model, policy, part)[:, :14] for part in (tokens, other))
    assert bool((one - two).abs().max() > 1e-3) == looks_ahead


def test_running_sums_go_on_over_chunks() -> None:
    pattern = naive_pattern(random_call(40, batch=1))  # type: ignore[arg-type]
    settings = act(alpha=1.3, sinks="so far")
    whole = SinksSoFar(settings, [0], None).calibrated(pattern, 0)
    memory, parts = SinksSoFar(settings, [0], None), []
    for first, last in ((0, 7), (7, 8), (8, 40)):
        part = memory.calibrated(pattern[:, :, first:last, :last], first)
        parts.append(torch.nn.functional.pad(part, (0, 40 - last)))
    assert (torch.cat(parts, 2) - whole).abs().max() < 1e-6
    assert (whole - pattern).abs().max() > 0.01


def test_what_cannot_be_is_refused(tiny: Tiny) -> None:
    model = tiny("llama")
    tokens, policy = tokens_of(model), Act.build(model, act())
    with pytest.raises(UnsupportedError, match="first call reads 24"):
        logits_under(model, for_lengths(policy, SIZE + 1), tokens)
    with pytest.raises(UnsupportedError, match="sinks of 2 texts"):
        logits_under(model, for_lengths(policy, torch.tensor([3, 4, 5])), tokens)
    with pytest.raises(ConfigError, match="no layer is left"):
        Act.build(model, ActSettings())
    with pytest.raises(HeadIndexError, match="L9H0 does not exist"):
        Act.build(model, act(heads=("L9H0",)))
    with pytest.raises(ConfigError, match="beta"):
        act(beta=-0.1)
    cache = DynamicCache()
    with torch.no_grad():
        model.plain.base_model(input_ids=tokens[:, :5], past_key_values=cache, use_cache=True)
        with calibrated(model, [Head(0, 0)], act()), pytest.raises(UnsupportedError, match="whole texts"):
            model.plain(input_ids=tokens[:, 5:], past_key_values=cache, use_cache=True)


def test_the_default_range_is_that_of_the_released_script(tiny: Tiny) -> None:
    """Layers 2 ... 30 of 32."""
    model = tiny("llama")
    heads = heads_in_range(model, ActSettings(skip_first=1, skip_last=1))
    assert heads == tuple(Head(1, head) for head in range(4))
    defaults = ActSettings()
    assert range(defaults.skip_first, 32 - defaults.skip_last) == range(2, 31)


def spread_call(size: int = 40) -> AttentionInput:
    """Two texts, four heads, logits strong enough for several sinks."""
    dice = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, n, size, 16, generator=dice) * 2 for n in (4, 2, 2))
    return AttentionInput(0, query, key, value, 0.25)


def test_the_control_takes_as_many_columns_that_are_no_sinks() -> None:
    call, lengths = spread_call(), torch.tensor([40, 31])
    sinks = find_sinks(call, ActSettings(), lengths)
    every_sink = find_sinks(call, ActSettings(keep_first=False), lengths)
    others = find_sinks(call, ActSettings(columns="others"), lengths)
    assert torch.equal(others.sum(-1), sinks.sum(-1))
    assert sinks.any()
    assert not (others & every_sink).any()
    assert not others[..., 0].any()
    assert not others[1, :, 31:].any()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_sink_can_be_asked_to_have_been_seen_by_a_share_of_the_rows(share: float) -> None:
    call, lengths = spread_call(), torch.tensor([40, 31])
    loose, strict = (find_sinks(call, ActSettings(least_share=part), lengths) for part in (0.0, share))
    for text, size in enumerate((40, 31)):
        late = torch.arange(40) > size - share * size
        assert not strict[text][:, late].any()
        assert torch.equal(strict[text][:, ~late], loose[text][:, ~late])
    assert (loose & ~strict).any()


def test_the_control_is_refused_where_sinks_are_found_row_by_row() -> None:
    with pytest.raises(ConfigError, match="no sinks are known only"):
        ActSettings.parse({"columns": "others", "sinks": "so far"})
