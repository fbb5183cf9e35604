"""The planted models do what their docstrings derive: every known head, and no other, shows its pattern.

Patterns come from plain eager attention of transformers, and are compared with closed forms.
"""

from __future__ import annotations

import functools
import pydoc_data.topics

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from headscope.errors import UnknownNameError
from headscope.heads import Head
from headscope.models.catalog import PLANTED_KINDS
from headscope.models.planted import KINDS, PlantedModel, build_planted, positions, wiring
from headscope.models.planted.vocabulary import ORDINARY_WORDS, VOCABULARY, token_ids

SEEDS = (0, 1, 2)
CLASSES = {"previous-token", "duplicate-token", "induction", "copying", "sink", "local", "retrieval"}
every_model = pytest.mark.parametrize(
    ("kind", "seed"), [(kind, seed) for kind in KINDS for seed in (SEEDS if kind == "all" else SEEDS[:2])]
)


@functools.cache
def planted(kind: str, seed: int = 0) -> PlantedModel:
    """Built once, read by all tests."""
    model = build_planted(kind, seed)
    model.hf.set_attn_implementation("eager")
    return model


@functools.cache
def english() -> np.ndarray:
    """Token ids of the language reference: English in which more than half of the words are unknown."""
    text = " ".join(pydoc_data.topics.topics.values())[:40_000]
    return np.array(planted("sink").tokenizer(text, add_special_tokens=False)["input_ids"])


def english_rows(length: int) -> np.ndarray:
    """Two stretches of English behind <bos>."""
    return np.stack([np.r_[0, english()[start:][: length - 1]] for start in (0, 4000)])


def random_rows(period: int, copies: int, n: int = 4) -> np.ndarray:
    """<bos> and ``copies`` times the same random words, without repeats, from all but <bos> and <unk>."""
    generator = np.random.default_rng(period)
    words = np.arange(2, len(VOCABULARY))
    return np.stack([np.r_[0, np.tile(generator.permutation(words)[:period], copies)] for _ in range(n)])


@torch.no_grad()
def patterns(model: PlantedModel, tokens: np.ndarray) -> np.ndarray:
    """Attention patterns, [layer, batch, head, query, key], in float64."""
    output = model.hf(input_ids=torch.as_tensor(tokens), output_attentions=True, use_cache=False)
    return torch.stack(output.attentions).double().numpy()


def distances(length: int) -> np.ndarray:
    """Query position minus key position."""
    return np.subtract.outer(np.arange(length), np.arange(length))


def assert_class(model: PlantedModel, name: str, score: np.ndarray, *, members: float, others: float) -> None:
    """Heads of the class score at least ``members``, all other heads at most ``others``."""
    for layer, head in np.ndindex(score.shape):
        value = score[layer, head]
        if Head(layer, head) in model.truth[name]:
            assert value >= members, f"{Head(layer, head)} is {name} and scores {value}"
        else:
            assert value <= others, f"{Head(layer, head)} is not {name} and scores {value}"


def repeated_cells(tokens: np.ndarray, shift: int) -> np.ndarray:
    """Cells (i, j) where the word at j - shift is that at i and stood before it: 0 duplicate, 1 induction."""
    same = (tokens[:, :, None] == tokens[:, None, :]) & (distances(tokens.shape[1]) > 0)
    return np.pad(same, ((0, 0), (0, 0), (shift, 0)))[:, :, : tokens.shape[1]]


def mass(pattern: np.ndarray, cells: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Attention inside the cells, [layer, head]: mean over batch and rows from ``first_row``."""
    return (pattern * cells[:, None]).sum(-1)[..., first_row:].mean((1, 3))


@every_model
def test_every_kind_lists_every_class_and_holds_its_own(kind: str, seed: int) -> None:
    model = planted(kind, seed)
    assert set(model.truth) == CLASSES
    alone = {
        "duplicate": {"duplicate-token"},
        "sink": {"sink"},
        "local": {"local"},
        "induction": {"previous-token", "local", "induction", "copying"},
        "retrieval": {"previous-token", "local", "retrieval", "copying"},
        "all": CLASSES,
    }
    assert {name for name, heads in model.truth.items() if heads} == alone[kind]
    assert model.hf.dtype == torch.float32
    assert not model.hf.training


def test_the_catalogue_names_the_same_kinds() -> None:
    assert KINDS == PLANTED_KINDS


def test_an_unknown_kind_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'induction'"):
        build_planted("inducton")


def test_a_seed_fixes_the_model_and_leaves_torchs_own_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    again = build_planted("all", 1)
    assert torch.equal(state, torch.random.get_rng_state())
    first = planted("all", 1)
    assert again.truth == first.truth
    for name, weight in first.hf.state_dict().items():
        assert torch.equal(weight, again.hf.state_dict()[name]), name


def test_seeds_move_the_heads() -> None:
    assert len({model.truth["sink"] for model in (planted("all", seed) for seed in SEEDS)}) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_each_head_of_all_has_a_key_value_group_of_its_own(seed: int) -> None:
    model = planted("all", seed)
    heads = frozenset().union(*model.truth.values())
    size = model.hf.config.num_attention_heads // model.hf.config.num_key_value_heads
    assert size == 2
    assert len({(head.layer, head.head // size) for head in heads}) == len(heads) == 6


@pytest.mark.parametrize(
    ("class_name", "curve"),
    [("previous-token", positions.previous_token_curve()), ("local", positions.local_curve())],
)
def test_a_head_at_a_distance_shows_the_fourier_series_that_was_drawn(class_name: str, curve: np.ndarray) -> None:
    model, length = planted("induction" if class_name == "previous-token" else "local"), 300
    (layer, head) = next(iter(model.truth[class_name]))
    logits = (positions.series() @ positions.draw_curve(curve))[np.abs(distances(length))]
    logits[distances(length) < 0] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.stack([weights / weights.sum(-1, keepdims=True)] * 2)
    np.testing.assert_allclose(patterns(model, english_rows(length))[layer, :, head], expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["induction", "local"])
def test_distance_heads_keep_their_pattern_up_to_the_context_length(kind: str) -> None:
    model = planted(kind)
    (layer, head) = next(iter(model.truth["local"]))
    pattern = patterns(model, english_rows(1024)[:1])[layer, 0, head]
    inside = (pattern * (distances(1024) < 16)).sum(-1)
    assert inside.min() > 0.97
    if kind == "induction":
        assert np.diagonal(pattern, -1).min() > 0.99


@every_model
def test_only_previous_token_heads_attend_to_the_position_before(kind: str, seed: int) -> None:
    for tokens in (random_rows(50, 2), english_rows(200)):
        pattern = patterns(planted(kind, seed), tokens)
        score = np.diagonal(pattern, -1, -2, -1).mean((1, 3))
        assert_class(planted(kind, seed), "previous-token", score, members=0.99, others=0.15)


@every_model
def test_only_local_heads_keep_their_mass_inside_sixteen_positions(kind: str, seed: int) -> None:
    tokens = english_rows(256)
    score = mass(patterns(planted(kind, seed), tokens), np.broadcast_to(distances(256) < 16, (2, 256, 256)))
    assert_class(planted(kind, seed), "local", score, members=0.99, others=0.4)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_local_head_spreads_over_about_ten_positions(seed: int) -> None:
    model = planted("local", seed)
    (layer, head) = next(iter(model.truth["local"]))
    pattern = patterns(model, english_rows(128))[layer, :, head, 32:]
    entropy = -(pattern * np.log(pattern.clip(1e-300))).sum(-1)
    assert 8 < np.exp(entropy).min() <= np.exp(entropy).max() < 13


@every_model
@pytest.mark.parametrize(("period", "copies"), [(10, 4), (25, 4), (90, 2)])
def test_only_duplicate_token_heads_attend_to_earlier_copies(kind: str, seed: int, period: int, copies: int) -> None:
    tokens = random_rows(period, copies)
    score = mass(patterns(planted(kind, seed), tokens), repeated_cells(tokens, 0), period + 1)
    assert_class(planted(kind, seed), "duplicate-token", score, members=0.99, others=0.25)


@every_model
@pytest.mark.parametrize(("period", "copies", "n"), [(25, 4, 12), (90, 2, 4)])
def test_only_induction_heads_attend_behind_earlier_copies(
    kind: str, seed: int, period: int, copies: int, n: int
) -> None:
    tokens = random_rows(period, copies, n)
    score = mass(patterns(planted(kind, seed), tokens), repeated_cells(tokens, 1), period + 1)
    assert_class(planted(kind, seed), "induction", score, members=0.8, others=0.25)


@pytest.mark.parametrize("kind", ["induction", "all"])
def test_an_induction_row_splits_its_mass_as_the_match_logit_says(kind: str) -> None:
    model, tokens = planted(kind), random_rows(25, 4)
    (layer, head) = next(iter(model.truth["induction"]))
    cells = repeated_cells(tokens, 1)
    matches, rows = cells.sum(-1), np.arange(tokens.shape[1])
    matches[~np.isin(tokens, token_ids(*ORDINARY_WORDS))] = 0
    weight = np.exp(wiring.MATCH_LOGIT) * matches
    expected = np.where(matches > 0, weight / (weight + rows + 1 - matches), cells.sum(-1) / (rows + 1))
    measured = (patterns(model, tokens)[layer, :, head] * cells).sum(-1)
    np.testing.assert_allclose(measured, expected, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("class_name", ["induction", "retrieval"])
def test_a_matching_head_without_a_match_looks_everywhere_alike(class_name: str, seed: int) -> None:
    model, tokens = planted("all", seed), random_rows(94, 1)
    (layer, head) = next(iter(model.truth[class_name]))
    uniform = np.tril(np.ones((95, 95))) / np.arange(1, 96)[:, None]
    measured = patterns(model, tokens)[layer, :, head]
    np.testing.assert_allclose(measured, np.broadcast_to(uniform, measured.shape), rtol=0.15)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_duplicate_token_head_without_a_match_rests_neither_on_itself_nor_on_bos(seed: int) -> None:
    model, tokens = planted("duplicate", seed), random_rows(94, 1)
    (layer, head) = next(iter(model.truth["duplicate-token"]))
    pattern = patterns(model, tokens)[layer, :, head, 30:]
    assert np.diagonal(pattern, 30, -2, -1).mean() < 0.3
    assert pattern[..., 0].mean() < 0.15


@every_model
def test_only_sink_heads_rest_on_the_first_position_on_random_words_and_on_english(kind: str, seed: int) -> None:
    for tokens in (random_rows(63, 1), random_rows(94, 1), english_rows(64), english_rows(300)):
        score = patterns(planted(kind, seed), tokens)[..., 0].mean((1, 3))
        assert_class(planted(kind, seed), "sink", score, members=0.99, others=0.2)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sink_head_takes_nothing_from_bos(seed: int) -> None:
    model = planted("sink", seed)
    (layer, head) = next(iter(model.truth["sink"]))
    values = model.hf.model.layers[layer].self_attn.v_proj.weight.reshape(-1, positions.D_HEAD, wiring.D_MODEL)
    norms = (values[head] @ model.hf.model.embed_tokens.weight.T).norm(dim=0)
    assert norms[0] == 0
    assert norms[1:].min() == 1


def copying_matrices(hf: LlamaForCausalLM) -> np.ndarray:
    """The full OV circuit W_U W_O W_V W_E of every head, [layer, head, said, read]."""
    config, rows = hf.config, []
    for block in hf.model.layers:
        attention = block.self_attn
        value = attention.v_proj.weight.view(config.num_key_value_heads, config.head_dim, -1)
        value = value.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, 0)
        output = attention.o_proj.weight.view(-1, config.num_attention_heads, config.head_dim)
        said = torch.einsum("vm,mhd->hvd", hf.lm_head.weight, output)
        read = torch.einsum("hdm,wm->hdw", value, hf.model.embed_tokens.weight)
        rows.append(said @ read)
    return torch.stack(rows).double().numpy()


@every_model
def test_only_copying_heads_say_the_word_they_read(kind: str, seed: int) -> None:
    model = planted(kind, seed)
    matrices = copying_matrices(model.hf)
    eigenvalues = np.linalg.eigvals(matrices)
    share = (eigenvalues.sum(-1) / np.abs(eigenvalues).sum(-1)).real
    assert_class(model, "copying", share, members=0.99, others=0.15)
    words = np.arange(2, 42)
    raised = matrices[..., words[:, None], words]
    raised = np.maximum(raised - raised.mean(-2, keepdims=True), 0)
    own = np.diagonal(raised, 0, -2, -1) / raised.sum(-2)
    assert_class(model, "copying", own.mean(-1), members=0.95, others=0.2)


@torch.no_grad()
def losses(model: PlantedModel, tokens: np.ndarray) -> np.ndarray:
    """Loss of each predicted token, [batch, position]."""
    ids = torch.as_tensor(tokens)
    logits = model.hf(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none").numpy()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_second_copy_is_predicted_and_the_first_is_not(seed: int) -> None:
    both = losses(planted("all", seed), random_rows(50, 2))
    assert both[:, :50].mean() > np.log(len(VOCABULARY)) * 0.9
    assert both[:, 51:].max() < 0.01
    ordinary_only = losses(planted("induction", seed), random_rows(50, 2))
    assert ordinary_only[:, 51:].mean() < 0.2 * ordinary_only[:, :50].mean()


@every_model
def test_the_norm_divides_by_the_same_factor_everywhere(kind: str, seed: int) -> None:
    model = planted(kind, seed)
    with torch.no_grad():
        tokens = torch.as_tensor(english_rows(256))
        states = model.hf(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states[:-1]
    for state in states:
        sizes = state.square().sum(-1).sqrt() / wiring.CHANNEL
        assert (sizes - 1).abs().max() < 1e-4


def test_the_tokenizer_lowers_case_splits_punctuation_and_starts_with_bos() -> None:
    tokenizer = planted("all").tokenizer
    words = tokenizer.convert_ids_to_tokens(tokenizer("The Queen, unheard-of.")["input_ids"])
    assert words == ["<bos>", "the", "queen", ",", "<unk>", "<unk>", "of", "."]
    assert tokenizer.bos_token_id == 0
    assert len(tokenizer) == len(set(VOCABULARY)) == 96


def test_transformer_lens_boots_it_offline_and_computes_the_same() -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model, tokens = build_planted("all", 0), torch.as_tensor(random_rows(25, 2))
    with torch.no_grad():
        plain = model.hf(input_ids=tokens).logits
        bridge = TransformerBridge.boot_transformers(
            "local/planted", hf_model=model.hf, tokenizer=model.tokenizer, device="cpu"
        )
        torch.testing.assert_close(bridge(tokens, return_type="logits"), plain, atol=1e-3, rtol=0)
    assert bridge.cfg.d_head == positions.D_HEAD
    assert bridge.to_tokens("the queen").tolist() == [[0, *token_ids("the", "queen")]]
