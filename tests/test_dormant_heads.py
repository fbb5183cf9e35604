"""Dormant heads: hand-set sinks whose measures are known, naive loops, and what must not matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.norms import EPSILON
from headscope.tasks.bigram_backcopy import BigramBackcopy, BigramBackcopySettings, dirichlet_bigrams
from headscope.training.settings import TrainingConfig
from headscope.training.trainer import Trainer
from probes.dormant_heads import DormantHeads, RowKinds, previous_weight, row_mean

STATES, LENGTH, SHARP = 6, 12, 60.0
VOCAB, START = STATES + 1, STATES
SETTINGS: dict[str, Any] = {
    "bigrams": "dirichlet",
    "states": STATES,
    "concentration": 1.0,
    "triggers": 2,
    "length": LENGTH,
}
TASK = BigramBackcopy(BigramBackcopySettings(**SETTINGS))
KINDS = ("trigger", "other")
ITSELF = {"kind": "masked", "settings": {"patterns": (({"kind": "window", "size": 1},),)}}
"""Every row sees its own token."""


def probe(n: int = 16) -> DormantHeads:
    return DormantHeads.of(TASK, n=n, seed=0, device=torch.device("cpu"))


def rows(measured: DormantHeads, kind: str) -> list[tuple[int, int]]:
    """Text and position of every row of a kind, by the tokens themselves."""
    tokens = measured.batch.tokens
    assert tokens is not None
    triggers = TASK.triggers()
    places = [(b, i) for b in range(len(tokens)) for i in range(1, LENGTH)]
    return [(b, i) for b, i in places if (int(tokens[b, i]) in triggers) == (kind == "trigger")]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def decoder(**settings: Any) -> Decoder:
    sizes = {"d_vocab": VOCAB, "n_ctx": LENGTH, "n_layers": 1, "n_heads": 2, "d_model": 16}
    return Decoder(DecoderConfig.parse(sizes | settings)).eval()


def planted(drain: float, weight: float) -> Decoder:
    """Head 0 copies the token before a trigger and rests on the start elsewhere; head 1 rests on it a little.

    A row of head 1 has the score ``log(weight)`` on the start token and 0 on all others. The start token's value has
    the norm ``drain`` in both heads, others have 1. The stream holds token and position, each one-hot, so the divisor
    of the norm is the same for all tokens.
    """
    places, width = slice(VOCAB, VOCAB + LENGTH), VOCAB + LENGTH
    size = 3 * VOCAB + LENGTH
    model = decoder(d_model=size, d_head=VOCAB, d_key=LENGTH + 1, position="learned")
    divisor = (2 / size + EPSILON) ** 0.5
    grow = divisor * (LENGTH + 1) ** 0.25  # undoes the norm, and half of the scale of scores
    token = torch.eye(VOCAB)
    values = token.clone()
    values[START, START] = drain
    asks = torch.full((VOCAB,), 2.0)
    asks[list(TASK.triggers())] = -2.0
    attn: Any = model.mixing_layers[0]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        model.W_E[:, :VOCAB] = token
        assert model.W_pos is not None
        model.W_pos[:, places] = torch.eye(LENGTH)
        attn.W_Q[0, places, :LENGTH] = SHARP * grow * torch.eye(LENGTH).roll(-1, 1).triu(-1).tril(-1)
        attn.W_Q[0, :VOCAB, LENGTH] = SHARP * grow * asks
        attn.W_Q[1, :VOCAB, LENGTH] = grow * math.log(weight)
        attn.keys_values.W_K[0, places, :LENGTH] = grow * torch.eye(LENGTH)
        attn.keys_values.W_K[:, START, LENGTH] = grow
        attn.keys_values.W_V[:, :VOCAB] = divisor * values
        attn.W_O[0, :, width : width + VOCAB] = token
        attn.W_O[1, :, width + VOCAB :] = token
        model.W_U[width : width + VOCAB] = token
    return model


def test_a_planted_head_is_dormant_but_behind_triggers() -> None:
    measured = probe()
    found = measured(planted(drain=0.25, weight=3.0), 0)
    seconds = mean([float(i == 1) for _, i in rows(measured, "other")])  # their token before is the first
    for view in ("share", "moved"):
        assert found[f"{view}.first.other.L0H0"] == pytest.approx(1, abs=1e-5)
        assert found[f"{view}.first.trigger.L0H0"] == pytest.approx(0, abs=1e-5)
        assert found[f"{view}.previous.trigger.L0H0"] == pytest.approx(1, abs=1e-5)
        assert found[f"{view}.previous.other.L0H0"] == pytest.approx(seconds, abs=1e-5)
    assert found["output_norm.trigger.L0H0"] == pytest.approx(1, abs=1e-5)
    assert found["output_norm.other.L0H0"] == pytest.approx(0.25, abs=1e-5)
    assert found["accuracy.trigger"] == 1


@pytest.mark.parametrize("drain", [0.0, 0.25, 4.0], ids=["empty", "drained", "large"])
@pytest.mark.parametrize("weight", [1.0, 5.0], ids=["even", "sink"])
def test_a_planted_sink_has_the_weights_of_its_closed_form(drain: float, weight: float) -> None:
    """Row i has ``w`` for the start and 1 for i others: ``w / (w + i)``, of what is moved ``w d / (w d + i)``."""
    measured = probe()
    found = measured(planted(drain, weight), 0)
    for kind in KINDS:
        places = [i for _, i in rows(measured, kind)]
        assert found[f"share.first.{kind}.L0H1"] == pytest.approx(mean([weight / (weight + i) for i in places]))
        moved = mean([weight * drain / (weight * drain + i) for i in places])
        assert found[f"moved.first.{kind}.L0H1"] == pytest.approx(moved, rel=1e-5)
        assert found[f"row_mass.{kind}.L0H1"] == pytest.approx(1)
        assert f"null_mass.{kind}.L0H1" not in found
        assert found[f"uniform.first.{kind}"] == pytest.approx(mean([1 / (1 + i) for i in places]))
    for head in range(2):
        assert found[f"value_norm.first.L0H{head}"] == pytest.approx(drain, abs=1e-6)


def test_rows_that_can_close_have_their_mass_in_the_null_column() -> None:
    """With queries of 0, row i has 1 for each of its i + 1 tokens and ``exp(b)`` for nothing."""
    measured, null = probe(), math.exp(0.7)
    model = decoder(mixer={"kind": "sink", "settings": {"logit": 0.7}})
    with torch.no_grad():
        model.mixing_layers[0].W_Q.zero_()
    found = measured(model, 0)
    for kind in KINDS:
        places = [i for _, i in rows(measured, kind)]
        assert found[f"null_mass.{kind}.L0H1"] == pytest.approx(mean([null / (null + i + 1) for i in places]))
        assert found[f"row_mass.{kind}.L0H1"] == pytest.approx(mean([(i + 1) / (null + i + 1) for i in places]))
        assert found[f"share.first.{kind}.L0H1"] == pytest.approx(found[f"uniform.first.{kind}"])


def test_a_residual_peak_is_told_for_every_place() -> None:
    """The start token enters five times as long as the others; the second block doubles what every token had."""
    model = decoder(d_model=VOCAB, n_heads=1, n_layers=2, mixer=ITSELF)
    last: Any = model.mixing_layers[1]
    with torch.no_grad():
        model.W_E.copy_(torch.eye(VOCAB))
        model.W_E[START] *= 5
        model.mixing_layers[0].W_O.zero_()
        last.keys_values.W_V[0] = torch.eye(VOCAB)
        last.W_O[0] = torch.eye(VOCAB) * VOCAB**-0.5  # every token sees itself, and the norm makes it sqrt(V) long
    found = probe()(model, 0)
    assert found["residual_norm.first.embed"] == pytest.approx(5, rel=1e-5)
    assert found["residual_norm.first.L0"] == pytest.approx(5, rel=1e-5)
    assert found["residual_norm.first.L1"] == pytest.approx(6 / 2, rel=1e-5)


def test_a_model_that_is_the_chain_is_at_the_floor() -> None:
    matrix = dirichlet_bigrams(STATES, 1.0, 0).matrix
    model = decoder(d_model=VOCAB, n_heads=1)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(VOCAB))
        model.mixing_layers[0].W_O.zero_()
        model.W_U.fill_(-50)
        model.W_U[:STATES, :STATES] = torch.from_numpy(np.log(matrix)).float() * VOCAB**-0.5
    found = probe(64)(model, 0)
    assert found["risk.markov"] == pytest.approx(found["risk.markov_floor"], rel=1e-4)
    with torch.no_grad():
        model.W_U.zero_()
    even = probe(64)(model, 0)
    assert even["risk.markov_floor"] == pytest.approx(found["risk.markov_floor"])
    assert even["risk.markov"] == pytest.approx(math.log(VOCAB))
    assert even["risk.backcopy"] == pytest.approx(math.log(VOCAB))


def naive(measured: DormantHeads, model: Decoder, layer: int, head: int) -> dict[str, float]:
    """One head's measures, row by row, off the hooks of one pass."""
    tokens = measured.batch.tokens
    with torch.no_grad():
        cache = model.run_with_cache(tokens)[1]
    name = f"blocks.{layer}.attn"
    pattern, z = cache[f"{name}.hook_pattern"][:, head], cache[f"{name}.hook_z"][:, :, head]
    W_O = model.mixing_layers[layer].W_O[head].detach()
    sizes = (cache[f"{name}.hook_v"][:, :, head] @ W_O).norm(dim=-1)
    found: dict[str, float] = {"value_norm.first": mean([float(s[0]) / mean(s[1:].tolist()) for s in sizes])}
    for kind in KINDS:
        places = rows(measured, kind)
        for view, by in (("share", torch.ones_like(sizes)), ("moved", sizes)):
            brought = [(pattern[b, i].abs() * by[b], i) for b, i in places]
            found[f"{view}.first.{kind}"] = mean([float(w[0] / w.sum()) for w, _ in brought])
            found[f"{view}.previous.{kind}"] = mean([float(w[i - 1] / w.sum()) for w, i in brought])
        found[f"row_mass.{kind}"] = mean([float(pattern[b, i].sum()) for b, i in places])
        found[f"output_norm.{kind}"] = mean([float((z[b, i] @ W_O).norm()) for b, i in places])
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"mixer": "softmax", "position": "rope"},
        {"mixer": "softmax", "output_gate": "head", "output_norm": True},
        {"mixer": "softmax", "heads": "moh", "n_heads": 4},
        {"mixer": {"kind": "linear", "settings": {"features": "identity", "normalise": False}}},
    ],
    ids=["softmax", "gated", "weighted-heads", "signed"],
)
def test_every_measure_is_what_a_naive_loop_finds(settings: dict[str, Any]) -> None:
    measured, model = probe(6), decoder(n_layers=2, d_mlp=8, **settings)
    found = measured(model, 3)
    for layer in range(2):
        for head in range(model.config.n_heads):
            wanted = naive(measured, model, layer, head)
            heads = {name: found[f"{name}.L{layer}H{head}"] for name in wanted}
            assert heads == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_residual_norms_are_those_of_the_stream() -> None:
    measured, model = probe(5), decoder(n_layers=2)
    with torch.no_grad():
        cache = model.run_with_cache(measured.batch.tokens)[1]
    found = measured(model, 0)
    names = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    for place, name in zip(("embed", "L0", "L1"), names, strict=True):
        wanted = mean([float(text[0].norm()) / mean(text[1:].norm(dim=1).tolist()) for text in cache[name]])
        assert found[f"residual_norm.first.{place}"] == pytest.approx(wanted, rel=1e-5)


def test_longer_outputs_change_their_norm_alone() -> None:
    measured, model = probe(), decoder()
    before = measured(model, 0)
    with torch.no_grad():
        model.mixing_layers[0].W_O.mul_(3)
    after = measured(model, 0)
    for name, value in before.items():
        if name.startswith(("share", "moved", "value_norm", "row_mass")):
            assert after[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
        elif name.startswith("output_norm"):
            assert after[name] == pytest.approx(3 * value, rel=1e-5)


def test_exchanged_heads_exchange_their_measures() -> None:
    measured, model = probe(), decoder()
    before, attn = measured(model, 0), model.mixing_layers[0]
    made: Any = attn.keys_values
    with torch.no_grad():
        for weights in (attn.W_Q, attn.W_O, made.W_K, made.W_V):
            weights.copy_(weights.flip(0))
    after = measured(model, 0)
    for name, value in before.items():
        turned = name[:-1] + {"0": "1", "1": "0"}[name[-1]] if "H" in name else name
        assert after[turned] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_the_first_row_is_of_no_kind() -> None:
    measured = probe(7)
    kinds = RowKinds.of(measured.batch)
    both = kinds.trigger | kinds.other
    assert not both[:, 0].any()
    assert both[:, 1:].all()
    assert not (kinds.trigger & kinds.other).any()


def test_a_mean_over_no_rows_is_no_number() -> None:
    values = torch.full((2, 1, 3), torch.nan)
    assert row_mean(values, torch.zeros(2, 3, dtype=torch.bool)).isnan().all()
    values[0, 0, 1] = 2.0
    marked = torch.zeros(2, 3, dtype=torch.bool)
    marked[0, 1] = True
    assert row_mean(values, marked).tolist() == [2.0]  # what is not marked does not matter, not even NaN


def test_the_weight_on_the_token_before_of_more_columns_than_tokens() -> None:
    weights: Tensor = torch.arange(2 * 3 * 5, dtype=torch.float32).view(1, 2, 3, 5)
    assert previous_weight(weights)[0].tolist() == [[0, 5, 11], [0, 20, 26]]


@pytest.mark.parametrize("kind", ["mamba", "delta", "memory-key-values", "titans", "lstm", "landmark"])
def test_any_mixer_can_be_measured(kind: str) -> None:
    found = probe(4)(decoder(mixer=kind), 0)
    assert all(math.isfinite(value) for value in found.values())
    shares = [value for name, value in found.items() if name.startswith(("share", "moved"))]
    assert len(shares) == 2 * 2 * 2 * 2
    assert all(0 <= value <= 1 for value in shares)


def test_it_goes_along_with_a_training_and_leaves_no_hook() -> None:
    config = TrainingConfig.parse(
        {
            "task": {"kind": "bigram-backcopy", "settings": SETTINGS},
            "decoder": {"n_layers": 1, "n_heads": 1, "d_model": 8},
            "steps": 2,
            "evaluate_every": 1,
            "batch": 4,
            "evaluated": 4,
        }
    )
    trainer, plain = Trainer(config), Trainer(config)
    measured = DormantHeads.of(trainer.task, n=4, seed=1, device=torch.device("cpu"))  # type: ignore[arg-type]
    training = trainer.run(probe=measured)
    assert [point.step for point in training.curve] == [0, 1, 2]
    assert all("share.first.other.L0H0" in point.probes for point in training.curve)
    assert [point.loss for point in training.curve] == [point.loss for point in plain.run().curve]
    assert not any(point.has_hooks() for point in trainer.model.hook_points())
    assert not any(layer.use_result or layer.on_mix for layer in trainer.model.mixing_layers)


def test_the_same_seed_is_the_same_batch() -> None:
    model = decoder()
    assert probe()(model, 0) == probe()(model, 9)
    other = DormantHeads.of(TASK, n=16, seed=1, device=torch.device("cpu"))
    assert probe()(model, 0) != other(model, 0)
