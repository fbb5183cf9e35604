"""Every score against the formula in its docstring, written out in plain loops over an eager pattern.

The model is a small random Llama whose query heads share keys, the pattern that of transformers' own eager attention.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.models.bridged import BridgedModel
from headscope.models.planted.vocabulary import ORDINARY_WORDS
from headscope.readings import Method
from headscope.tasks import build_prose, build_repeated
from probes import PROBES, ProbeConfig
from probes.census import measure
from probes.probe import Bench, Samples

Pattern = list[list[float]]
LAYERS, HEADS, GROUP = 3, 4, 2
PLACES = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
both_methods = pytest.mark.parametrize("method", ["flash", "dense"])


@pytest.fixture(scope="module")
def haystack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of the small models' vocabulary, at random."""
    path = tmp_path_factory.mktemp("haystack") / "words.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(ORDINARY_WORDS, 3_000)))
    return path


@pytest.fixture
def bench(tiny: Callable[[str], BridgedModel], haystack: Path, method: Method) -> Bench:
    """Few and short examples."""
    return Bench(
        tiny("llama"),
        ProbeConfig(
            method=method,
            repeated_examples=2,
            period=6,
            copies=3,
            sink_examples=2,
            prose_examples=2,
            prose_length=40,
            haystack=haystack,
        ),
    )


@torch.no_grad()
def eager(model: BridgedModel, tokens: Tensor) -> Any:
    """Output of an untouched copy with eager attention: attentions and hidden states."""
    plain = copy.deepcopy(model.plain)
    plain.set_attn_implementation("eager")
    return plain(input_ids=tokens, output_attentions=True, output_hidden_states=True, use_cache=False)


def patterns(model: BridgedModel, tokens: Tensor) -> list[dict[tuple[int, int], Pattern]]:
    """Rows of every head's pattern, per example."""
    attentions = eager(model, tokens).attentions
    return [{(layer, head): attentions[layer][i, head].tolist() for layer, head in PLACES} for i in range(len(tokens))]


@torch.no_grad()
def values(model: BridgedModel, tokens: Tensor) -> Tensor:
    """What each query head reads at each position, ``[example, layer, head, position, d_head]``."""
    states, found = eager(model, tokens).hidden_states, []
    for layer, block in enumerate(model.plain.model.layers):
        per_group = block.self_attn.v_proj(block.input_layernorm(states[layer])).unflatten(-1, (HEADS // GROUP, -1))
        found.append(torch.stack([per_group[:, :, head // GROUP] for head in range(HEADS)], 1))
    return torch.stack(found, 1)


def assert_equal(measured: np.ndarray, naive: list[dict[tuple[int, int], float]], atol: float = 2e-6) -> None:
    """Compare example by example, head by head."""
    assert measured.shape == (len(naive), LAYERS, HEADS)
    for example, expected in zip(measured, naive, strict=True):
        for place in PLACES:
            assert math.isclose(example[place], expected[place], abs_tol=atol), place


def samples_of(bench: Bench, probe: str) -> Samples:
    """The value of every example."""
    return measure(bench, PROBES[probe])[1]


def repeated(bench: Bench) -> Tensor:
    """The sequences that the repeated-token probes draw."""
    config = bench.config
    return build_repeated(
        bench.model,
        n=config.repeated_examples,
        period=config.period,
        copies=config.copies,
        generator=bench.generator("repeated tokens"),
    ).tokens


def prose(bench: Bench, purpose: str, n: int, length: int) -> Tensor:
    """The passages that the probes on text draw."""
    return build_prose(bench.model, bench.haystack, n=n, length=length, generator=bench.generator(purpose))


def mean(numbers: list[float]) -> float:
    """Arithmetic mean."""
    return sum(numbers) / len(numbers)


@both_methods
def test_previous_token_is_the_mean_mass_one_back_where_that_is_no_start_token(bench: Bench) -> None:
    tokens = repeated(bench)
    naive = [
        {place: mean([a[i][i - 1] for i in range(2, len(a))]) for place, a in heads.items()}
        for heads in patterns(bench.model, tokens)
    ]
    assert_equal(samples_of(bench, "previous_token")["previous_token"], naive)


@both_methods
@pytest.mark.parametrize("shift", [0, 1], ids=["duplicate_token", "induction"])
def test_duplicate_and_induction_sum_over_all_earlier_equal_tokens(bench: Bench, shift: int) -> None:
    tokens = repeated(bench)
    naive = []
    for row, heads in zip(tokens.tolist(), patterns(bench.model, tokens), strict=True):
        earlier = {i: [j for j in range(i) if row[j] == row[i]] for i in range(len(row))}
        second_on = [i for i in earlier if earlier[i]]
        assert len(second_on) == 12, "rows of copies 2 and 3"
        naive.append(
            {place: mean([sum(a[i][j + shift] for j in earlier[i]) for i in second_on]) for place, a in heads.items()}
        )
    name = ("duplicate_token", "induction")[shift]
    assert_equal(samples_of(bench, name)[name], naive)


@both_methods
def test_copying_is_the_share_of_raised_logits_on_the_token_read(bench: Bench) -> None:
    model = bench.model
    task = build_repeated(model, n=2, period=6, copies=1, generator=bench.generator("copying"))
    read_values = values(model, task.tokens)
    norm, head_weights = model.plain.model.norm.weight, model.plain.lm_head.weight
    naive = []
    for example, row in enumerate(task.tokens[:, 1:].tolist()):
        shares: dict[tuple[int, int], float] = {}
        for layer, head in PLACES:
            w_o = model.plain.model.layers[layer].self_attn.o_proj.weight[:, head * 8 : head * 8 + 8]
            found = []
            for at, _ in enumerate(row):
                written = w_o @ read_values[example, layer, head, at + 1]
                logits = [float((head_weights[token] * norm) @ written) for token in row]
                raised = [max(logit - mean(logits), 0.0) for logit in logits]
                found.append(raised[at] / sum(raised))
            shares[layer, head] = mean(found)
        naive.append(shares)
    assert_equal(samples_of(bench, "copying")["copying"], naive)


@both_methods
def test_the_six_sink_scores(bench: Bench) -> None:
    tokens = prose(bench, "sink", 2, 64)
    norms = values(bench.model, tokens).norm(dim=-1)
    naive: dict[str, list[dict[tuple[int, int], float]]] = {}
    for example, heads in enumerate(patterns(bench.model, tokens)):
        scores: dict[str, dict[tuple[int, int], float]] = {}
        for place, a in heads.items():
            alpha = [sum(a[i][t] for i in range(t, 64)) / (64 - t) for t in range(64)]
            later = [t for t in range(1, 64) if alpha[t] > 5 / 64]
            value = norms[example][place].tolist()
            for name, number in {
                "sink": alpha[0],
                "sink_rate": float(alpha[0] > 0.3),
                "first_position_mass": mean([a[i][0] for i in range(1, 64)]),
                "later_sinks": len(later),
                "later_sink_mass": mean([sum(a[i][t] for t in later) for i in range(64)]),
                "value_drain": value[0] / mean(value[1:]),
            }.items():
                scores.setdefault(name, {})[place] = number
        for name, by_head in scores.items():
            naive.setdefault(name, []).append(by_head)
    measured = samples_of(bench, "sink")
    assert set(measured) == set(naive)
    for name, expected in naive.items():
        assert_equal(measured[name], expected)
    assert max(naive["later_sinks"][0].values()) > 0, "some head has a later sink, or nothing was tested"


@both_methods
def test_the_three_local_scores(bench: Bench) -> None:
    heads_of = patterns(bench.model, prose(bench, "prose", 2, 40))
    naive: dict[str, list[dict[tuple[int, int], float]]] = {"window_mass": [], "mean_distance": [], "window_95": []}
    for heads in heads_of:
        profiles = {
            place: [sum(a[i][i - d] for i in range(d, 40)) / 40 for d in range(40)] for place, a in heads.items()
        }
        naive["window_mass"].append({place: sum(c[:16]) for place, c in profiles.items()})
        naive["window_95"].append(
            {place: min(w for w in range(1, 41) if sum(c[:w]) >= 0.95) for place, c in profiles.items()}
        )
        naive["mean_distance"].append(
            {
                place: mean([sum(a[i][j] * (i - j) for j in range(i + 1)) for i in range(1, 40)])
                for place, a in heads.items()
            }
        )
    measured = samples_of(bench, "local")
    for name, expected in naive.items():
        assert_equal(measured[name], expected, atol=2e-5)


@both_methods
def test_entropy_is_in_nats_and_leaves_out_the_row_that_sees_one_key(bench: Bench) -> None:
    naive = [
        {
            place: mean([-sum(p * math.log(p) for p in a[i][: i + 1] if p > 0) for i in range(1, 40)])
            for place, a in heads.items()
        }
        for heads in patterns(bench.model, prose(bench, "prose", 2, 40))
    ]
    assert_equal(samples_of(bench, "entropy")["entropy"], naive, atol=2e-5)


def gain(norm: Any) -> Tensor:
    """What a norm multiplies each direction by: Gemma stores that minus 1."""
    return 1 + norm.weight if type(norm).__name__ == "Gemma2RMSNorm" else norm.weight


def split_heads(model: BridgedModel, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Per query head W_V [d_model, d_head] and W_O [d_head, d_model], norms' gains folded in, for three families."""
    if type(model.plain).__name__ == "GPT2LMHeadModel":
        block: Any = model.plain.transformer.h[layer]
        before, after = gain(block.ln_1), torch.ones(32)
        w_v = block.attn.c_attn.weight[:, 64:].reshape(32, HEADS, 8).permute(1, 0, 2)
        w_o = block.attn.c_proj.weight.reshape(HEADS, 8, 32)
    else:
        block = model.plain.model.layers[layer]
        gemma = type(model.plain).__name__ == "Gemma2ForCausalLM"
        before = gain(block.input_layernorm)
        after = gain(block.post_attention_layernorm) if gemma else torch.ones(32)
        w_v = block.self_attn.v_proj.weight.reshape(HEADS // GROUP, 8, 32).mT.repeat_interleave(GROUP, 0)
        w_o = block.self_attn.o_proj.weight.reshape(32, HEADS, 8).permute(1, 2, 0)
    return [(before[:, None] * w_v[head], w_o[head] * after) for head in range(HEADS)]


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2, window 8, capped"])
def test_the_ov_eigenvalue_ratio_is_that_of_the_full_circuit_over_the_vocabulary(
    tiny: Callable[[str], BridgedModel], name: str
) -> None:
    model = tiny(name)
    plain: Any = model.plain
    final = gain(plain.transformer.ln_f if name == "gpt2" else plain.model.norm)
    embed, unembed = plain.get_input_embeddings().weight.double(), plain.get_output_embeddings().weight * final
    bench = Bench(model, ProbeConfig(repeated_examples=2, period=6, copies=2, method="dense"))
    measured = samples_of(bench, "copying")["ov_eigenvalue"]
    assert measured.shape == (1, LAYERS, HEADS), "a property of the weights is one sample"
    for layer, head in PLACES:
        w_v, w_o = (part.double() for part in split_heads(model, layer)[head])
        full = embed @ w_v @ w_o @ unembed.double().T
        assert full.shape == (96, 96)
        eigenvalues = torch.linalg.eigvals(full)
        expected = float(eigenvalues.sum().real / eigenvalues.abs().sum())
        assert measured[0, layer, head] == pytest.approx(expected, abs=1e-5)
