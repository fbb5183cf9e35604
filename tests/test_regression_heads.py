"""Heads for linear regression: hand-set gradient descent, the real forward pass, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.norms import NoNorm
from headscope.tasks.linear_regression import (
    LinearRegression,
    LinearRegressionSettings,
    gradient_step,
)
from headscope.tasks.synthetic import SyntheticBatch
from headscope.training.settings import TrainingConfig
from headscope.training.trainer import Trainer
from probes.regression_heads import (
    RegressionHeads,
    RegressionWeights,
    layer_measures,
    prediction_measures,
    predictors,
    regression_weights,
    weight_measures,
)

WIDTH, EXAMPLES = 4, 12
INPUT = WIDTH + 1
PLAIN_LINEAR = {"kind": "linear", "settings": {"features": "identity", "normalise": False}}


def task(**settings: Any) -> LinearRegression:
    return LinearRegression(LinearRegressionSettings(**({"width": WIDTH, "examples": EXAMPLES} | settings)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probe(n: int = 64, **settings: Any) -> RegressionHeads:
    return RegressionHeads.of(task(**settings), n=n, seed=0, device=torch.device("cpu"))


def decoder(**settings: Any) -> Decoder:
    sizes = {"d_input": INPUT, "d_output": 1, "n_ctx": EXAMPLES + 1, "n_layers": 1, "n_heads": 2, "d_model": 16}
    return Decoder(DecoderConfig.parse(sizes | settings)).eval()


def read(model: Decoder, batch: SyntheticBatch, layer: int = 0) -> RegressionWeights:
    found = regression_weights(model, layer, batch)
    assert found is not None
    return found


def without_norms(model: Decoder) -> Decoder:
    """The papers' models have none."""
    blocks: Any = model.blocks
    for block in blocks:
        block.ln1 = NoNorm()
    model.ln_final = NoNorm()
    model.setup()
    return model


def planted(omega: list[float], mu: list[float], mixer: Any) -> Decoder:
    """Heads with ``KQ = omega I`` on x and ``OV = mu`` on y, in a stream that is the input itself."""
    heads = len(omega)
    model = without_norms(decoder(d_model=INPUT, n_heads=heads, d_head=1, d_key=WIDTH, mixer=mixer))
    attn: Any = model.mixing_layers[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.W_E.copy_(torch.eye(INPUT))
        for head in range(heads):
            attn.W_Q[head, :WIDTH] = torch.eye(WIDTH) * omega[head] / attn.scale
            attn.keys_values.W_K[head, :WIDTH] = torch.eye(WIDTH)
            attn.keys_values.W_V[head, -1, 0] = 1
            attn.W_O[head, 0, -1] = mu[head]
        model.W_U[-1, 0] = 1
    return model


# hand-set gradient descent


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_planted_linear_head_is_a_step_of_gradient_descent(noise: float) -> None:
    measured = probe(noise=noise)
    best = measured.task.best_rate(centred=False)
    found = measured(planted([-0.5], [-2 * best / EXAMPLES], PLAIN_LINEAR), 0)
    assert found["gap.gradient_step"] == pytest.approx(0, abs=1e-10)
    assert found["cosine.gradient_step"] == pytest.approx(1)
    assert found["rate.gradient_step"] == pytest.approx(best, rel=1e-5)
    assert found["error.model"] == pytest.approx(found["error.gradient_step"], rel=1e-5)
    assert found["kq.scale.L0H0"] == pytest.approx(-0.5)
    assert found["kq.cosine.L0H0"] == pytest.approx(-1)
    assert found["kq.block_cosine.L0H0"] == pytest.approx(-1)
    for name in ("ov.scale", "answer.scale"):
        assert found[f"{name}.L0H0"] == pytest.approx(-2 * best / EXAMPLES)
    for name in ("ov.cosine", "answer.cosine"):
        assert found[f"{name}.L0H0"] == pytest.approx(-1)
    for name in ("kq.off_block", "kq.query_y", "ov.off_block"):
        assert found[f"{name}.L0H0"] == pytest.approx(0, abs=1e-6)
    assert found["rate.L0"] * EXAMPLES == pytest.approx(best)
    assert (found["zero_sum.L0"], found["same_sign.L0"]) == pytest.approx((1, 1))


def test_two_planted_softmax_heads_are_a_centred_step_where_scores_are_small() -> None:
    """``sum_h mu_h sum_i y_i softmax(omega_h x_i . x)`` to first order in omega, with heads of both signs."""
    measured = probe(256, examples=100)
    small = 0.01
    model = planted([small, -small], [0.5 / small, -0.5 / small], "softmax")
    found = measured(model, 0)
    assert found["rate.L0"] == pytest.approx(1)
    assert found["zero_sum.L0"] == pytest.approx(0, abs=1e-6)
    assert found["same_sign.L0"] == pytest.approx(1)
    assert found["rate.centred_step"] == pytest.approx(1, rel=0.03)  # the asked token is a 101st key
    assert found["cosine.centred_step"] == pytest.approx(1, abs=0.001)
    assert found["cosine.gradient_step"] < found["cosine.centred_step"]


def test_heads_of_opposite_signs_do_not_agree() -> None:
    model = planted([1.0, -1.0, 2.0], [0.5, 0.5, -0.25], "softmax")
    batch = probe().batch
    found = layer_measures(read(model, batch))
    assert float(found["rate"]) == pytest.approx(0.5 - 0.5 - 0.5)
    assert float(found["same_sign"]) == pytest.approx(0.5 / 1.5)
    assert float(found["zero_sum"]) == pytest.approx(0.75 / 1.25)


# against the real forward pass


def orthonormal(rows: int, width: int) -> Tensor:
    """Rows of length one, at right angles, each with the mean 0."""
    drawn = torch.randn(width, rows, generator=seeded(4), dtype=torch.float64)
    return torch.linalg.qr(drawn - drawn.mean(0)).Q.mT


def even_batch(n: int = 1) -> SyntheticBatch:
    """Inputs of one length, the last with y = 0: the divisor of a first norm is the same everywhere."""
    batch = task().batch(n, seeded(1))
    assert batch.inputs is not None
    inputs = batch.inputs.double()
    return replace(batch, inputs=inputs / inputs.norm(dim=-1, keepdim=True))


def lively(model: Decoder) -> Decoder:
    """With gains that are not one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("ln1.w", "ln_final.w")):
                parameter.copy_(1 + 0.5 * torch.randn(parameter.shape, generator=seeded(len(name))))
    return model.double()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "layer"},
        {"sharing": {"key_heads": 1, "value_heads": 2}, "n_heads": 4},
        {"d_head": 3, "d_key": 5, "d_mlp": 8},
    ],
    ids=["rms", "layer-norm", "grouped", "widths"],
)
def test_weights_are_what_the_forward_pass_makes_of_inputs(settings: dict[str, Any]) -> None:
    """Scores are ``x_q KQ x_k``, and what a head writes has the coordinates ``sum_k M_qk x_k OV``."""
    model, batch = lively(decoder(**settings)), even_batch(3)
    with torch.no_grad():
        model.W_E.copy_(orthonormal(INPUT, 16))
        if model.config.norm == "layer":
            model.W_E.add_(torch.randn(INPUT, 1, generator=seeded(2)).double())  # a mean that the norm takes off
        model.mixing_layers[0].use_result = True
        cache = model.run_with_cache(batch.given)[1]
    found, x = read(model, batch), batch.given
    scores = torch.einsum("bqi,hij,bkj->bhqk", x, found.kq, x).tril()
    torch.testing.assert_close(cache["blocks.0.attn.hook_attn_scores"].tril(), scores)
    mixed = cache["blocks.0.attn.hook_pattern"] @ x[:, None]
    written = (mixed @ found.ov).transpose(1, 2)
    torch.testing.assert_close(cache["blocks.0.attn.hook_result"] @ torch.linalg.pinv(model.W_E), written)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_answer_is_the_sum_of_what_heads_answer(norm: str) -> None:
    """Without MLPs: what the asked token itself says, and ``sum_h sum_k M_qk x_k answer_h``; of one text, exactly."""
    model, batch = lively(decoder(norm=norm)), even_batch()
    with torch.no_grad():
        model.W_E.copy_(orthonormal(INPUT, 16))
        logits, cache = model.run_with_cache(batch.given)
        last: Any = model.ln_final
        embedded = model.W_E if norm == "rms" else model.W_E - model.W_E.mean(1, keepdim=True)
        itself = batch.given[0, -1] @ (embedded * last.w) @ model.W_U[:, 0] / cache["ln_final.hook_scale"][0, -1, 0]
    mixed = cache["blocks.0.attn.hook_pattern"][0, :, -1] @ batch.given[0]
    heads = (mixed * read(model, batch).answer).sum()
    torch.testing.assert_close(logits[0, -1, 0], itself + heads)


def test_a_second_layer_is_read_off_the_embedding_with_its_own_norm() -> None:
    model, batch = lively(decoder(n_layers=2)), even_batch(4)
    blocks: Any = model.blocks
    found = read(model, batch, layer=1)
    with torch.no_grad():
        cache = model.run_with_cache(batch.given)[1]
        divisor = 1 / cache["blocks.1.ln1.hook_scale"][..., 0]
        for head in range(2):
            made = blocks[1].attn.keys_values
            E = model.W_E * blocks[1].ln1.w
            query, key = E @ blocks[1].attn.W_Q[head], E @ made.W_K[head]
            wanted = query @ key.mT * 8**-0.5 * divisor[:, -1].mean() * divisor[:, :-1].mean()
            torch.testing.assert_close(found.kq[head], wanted)


def test_turning_the_basis_of_a_head_changes_nothing() -> None:
    model, batch = decoder(), probe().batch
    before, attn = read(model, batch), model.mixing_layers[0]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=seeded())).Q
    made: Any = attn.keys_values
    with torch.no_grad():
        for weights in (attn.W_Q, made.W_K, made.W_V):
            weights.copy_(weights @ turn)
        attn.W_O.copy_(turn.mT @ attn.W_O)
    after = read(model, batch)
    for name in ("kq", "ov", "answer"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv": 3},
        {"qk_norm": True},
        {"output_gate": "head"},
        {"output_norm": True},
        {"temperature": "learned"},
        {"block": "sphere"},
        {"sharing": {"latent": 4}},
        {"sharing": {"source": "embedding"}},
        {"heads": "moh", "n_heads": 4},
        {"mixer": "s4d"},
    ],
    ids=["conv", "qk-norm", "gate", "output-norm", "temperature", "sphere", "latent", "embedding", "moh", "no-queries"],
)
def test_what_is_more_than_one_matrix_has_no_weights_but_errors(settings: dict[str, Any]) -> None:
    model, measured = decoder(**settings), probe()
    assert regression_weights(model, 0, measured.batch) is None
    found = measured(model, 0)
    assert found.keys() == prediction_measures(torch.ones(64), measured.task, measured.batch).keys()


@pytest.mark.parametrize(
    ("settings", "plain"),
    [({"sharing": {"layers": 2}}, [True, False]), ({"value_residual": "learned"}, [True, False]), ({}, [True, True])],
    ids=["shared", "mixed-values", "plain"],
)
def test_only_layers_with_weights_of_their_own_are_read(settings: dict[str, Any], plain: list[bool]) -> None:
    found = probe()(decoder(n_layers=2, **settings), 0)
    for layer, own in enumerate(plain):
        assert (f"zero_sum.L{layer}" in found) == own
        assert (f"kq.cosine.L{layer}H1" in found) == own


# measures of planted matrices


def test_weight_measures_are_what_a_naive_loop_finds() -> None:
    drawn = [torch.randn(shape, generator=seeded(k), dtype=torch.float64) for k, shape in enumerate([(3, 5, 5)] * 2)]
    weights = RegressionWeights(*drawn, torch.randn(3, 5, generator=seeded(9), dtype=torch.float64))
    found = weight_measures(weights)
    for h in range(3):
        kq, ov, answer = (part[h].tolist() for part in (weights.kq, weights.ov, weights.answer))
        trace = sum(kq[i][i] for i in range(4))
        block = sum(kq[i][j] ** 2 for i in range(4) for j in range(4))
        aside, query_y = sum(kq[i][4] ** 2 for i in range(4)), sum(kq[4][j] ** 2 for j in range(5))
        others = sum(ov[i][j] ** 2 for i in range(5) for j in range(5) if (i, j) != (4, 4))
        wanted = {
            "kq.scale": trace / 4,
            "kq.cosine": trace / math.sqrt(4 * (block + aside)),
            "kq.block_cosine": trace / math.sqrt(4 * block),
            "kq.off_block": aside / (block + aside),
            "kq.query_y": query_y / (block + aside + query_y),
            "ov.scale": ov[4][4],
            "ov.cosine": ov[4][4] / math.sqrt(others + ov[4][4] ** 2),
            "ov.off_block": others / (others + ov[4][4] ** 2),
            "answer.scale": answer[4],
            "answer.cosine": answer[4] / math.hypot(*answer),
        }
        assert {name: float(values[h]) for name, values in found.items()} == pytest.approx(wanted)


def test_weights_of_nothing_have_measures_of_nothing() -> None:
    empty = RegressionWeights(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), torch.zeros(1, 3))
    numbers = [float(value) for value in [*weight_measures(empty).values(), *layer_measures(empty).values()]]
    assert numbers == [0.0] * 13


# predictors


def test_multiples_of_a_predictor_are_told_by_their_rate() -> None:
    measured = probe(noise=0.3)
    for centred, name in ((False, "gradient_step"), (True, "centred_step")):
        answers = gradient_step(measured.batch, 0.7, centred=centred)
        found = prediction_measures(answers, measured.task, measured.batch)
        assert found[f"rate.{name}"] == pytest.approx(0.7, rel=1e-5)
        assert found[f"cosine.{name}"] == pytest.approx(1)


def test_errors_are_mean_squares_and_ridge_has_the_least() -> None:
    measured = probe(512, noise=0.5)
    assert measured.batch.values is not None
    wanted = measured.batch.values[:, -1, 0]
    known = predictors(measured.task, measured.batch)
    answers = torch.zeros(512)
    found = prediction_measures(answers, measured.task, measured.batch)
    for name, other in known.items():
        squares = [(float(a) - float(b)) ** 2 for a, b in zip(other, wanted, strict=True)]
        assert found[f"error.{name}"] == pytest.approx(sum(squares) / 512, rel=1e-5)
        assert found[f"gap.{name}"] == pytest.approx(float(other.square().mean()), rel=1e-5)
        assert found[f"cosine.{name}"] == found[f"rate.{name}"] == 0
    assert found["error.model"] == pytest.approx(float(wanted.square().mean()), rel=1e-5)
    assert found["error.ridge"] < min(found["error.gradient_step"], found["error.centred_step"])
    assert max(found["error.gradient_step"], found["error.centred_step"]) < found["error.model"]


def test_ridge_is_the_mean_of_what_is_still_possible() -> None:
    """Values are a Gaussian process with the kernel ``x . x' / width`` and noise: ``k^T (K + noise^2 I)^-1 y``."""
    measured = probe(noise=0.5)
    texts = measured.batch.given.double()
    ridge = predictors(measured.task, measured.batch)["ridge"]
    for text, answer in zip(texts, ridge, strict=True):
        x, y, asked = text[:-1, :-1], text[:-1, -1], text[-1, :-1]
        kernel = x @ x.mT / WIDTH + 0.25 * torch.eye(EXAMPLES)
        assert float(answer) == pytest.approx(
            float(x @ asked / WIDTH @ torch.linalg.inv(kernel) @ y), rel=1e-4, abs=1e-5
        )


def test_ridge_without_noise_is_exact_and_answers_itself() -> None:
    measured = probe()
    found = prediction_measures(predictors(measured.task, measured.batch)["ridge"], measured.task, measured.batch)
    assert found["error.ridge"] == pytest.approx(0, abs=1e-9)
    assert found["error.model"] == pytest.approx(0, abs=1e-9)
    assert (found["gap.ridge"], found["rate.ridge"], found["cosine.ridge"]) == pytest.approx((0, 1, 1))


def test_only_the_last_answer_counts() -> None:
    measured = probe()
    model = planted([0.3], [0.1], PLAIN_LINEAR)
    with torch.no_grad():
        answers = model(measured.batch.given)[:, -1, 0]
    wanted = prediction_measures(answers, measured.task, measured.batch)
    assert {name: value for name, value in measured(model, 0).items() if name in wanted} == wanted


def test_it_goes_along_with_a_training() -> None:
    config = TrainingConfig.parse(
        {
            "task": {"kind": "linear-regression", "settings": {"width": WIDTH, "examples": EXAMPLES}},
            "decoder": {"n_layers": 2, "n_heads": 2, "d_model": 8},
            "steps": 2,
            "evaluate_every": 1,
            "batch": 4,
            "evaluated": 4,
        }
    )
    trainer, plain = Trainer(config), Trainer(config)
    assert isinstance(trainer.task, LinearRegression)
    measured = RegressionHeads.of(trainer.task, n=8, seed=1, device=torch.device("cpu"))
    training = trainer.run(probe=measured)
    assert [point.step for point in training.curve] == [0, 1, 2]
    for point in training.curve:
        assert {"error.ridge", "rate.L1", "ov.cosine.L1H1"} <= point.probes.keys()
        assert all(math.isfinite(value) for value in point.probes.values())
    assert [point.loss for point in training.curve] == [point.loss for point in plain.run().curve]
