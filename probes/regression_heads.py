"""Heads that learn linear regression in the context: their weights against one step of gradient descent.

Tokens are ``(x_i, y_i)``, and ``(x, 0)`` is asked. One step of gradient descent from zero weights answers
``rate / n sum_i y_i x_i . x``; a head without a softmax does this exactly if its keys and queries meet in a multiple of
the identity on x, and its values and outputs touch y alone (von Oswald et al. 2022, arXiv 2212.07677, proposition 1).
Softmax heads trained on it come to the same pattern (He et al. 2025, arXiv 2503.12734): KQ is ``omega_h I`` on x, OV is
``mu_h`` on y, the signs of both agree and the ``mu_h`` add up to 0, which is a step on centred examples at the rate
``sum_h omega_h mu_h`` where scores are small. Of heads without a softmax the rate is n times that.

Weights are read in the basis of the inputs, along the direct path from the embedding E (the paths through earlier
layers are left out), with ``g`` the gain of the layer's norm, ``r`` the mean of one over its divisor (over examples for
keys and values, over the asked rows for queries), ``f`` and ``r_f`` those of the last norm, and ``E+`` the
pseudo-inverse:

- ``KQ = scale r_q r_k (E g W_Q) (E g W_K)^T``, from the coordinate of the query to that of the key;
- ``OV = r_k (E g W_V) W_O E+``, from the coordinate of the value to the coordinate that is written;
- ``answer = r_k r_f (E g W_V) W_O f W_U``, from the coordinate of the value to the number that is answered.

A layer norm takes the mean off first, which is linear too; its bias, and vectors for positions, are left out. Where a
norm's divisor differs from token to token, scales are those of a typical token; cosines and shares do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.norms import Norm
from headscope.tasks.linear_regression import LinearRegression, gradient_step, ridge
from headscope.tasks.synthetic import SyntheticBatch

_TINY = 1e-12


@dataclass(frozen=True)
class RegressionWeights:
    """One layer's weights in the basis of the inputs, y last; see the module's docstring.

    Attributes:
        kq: coordinate of the query, coordinate of the key.
        ov: coordinate of the value, coordinate that is written.
        answer: coordinate of the value.
    """

    kq: Float[Tensor, "H d_input d_input"]
    ov: Float[Tensor, "H d_input d_input"]
    answer: Float[Tensor, "H d_input"]


def regression_weights(model: Decoder, layer: int, batch: SyntheticBatch) -> RegressionWeights | None:
    """Those of a layer, with the divisors of norms on a batch.

    None where queries, keys, values or outputs are more than one matrix each of the layer's own: convolutions, norms of
    queries and keys, learned temperatures, unit spheres, latents, gates, output norms, weighted heads, shared layers,
    mixed values, and mixers without queries and keys. Positions and what the mixer makes of queries and keys are not
    in it.
    """
    if not _is_plain(model, layer):
        return None
    block, last = _block(model, layer), model.ln_final
    attn, heads = block.attn, model.config.n_heads
    divisors = _divisors(model, batch)
    inner, final = divisors[f"blocks.{layer}.ln1"], divisors["ln_final"][:, -1].mean()
    with torch.no_grad():
        E = _normed(model.W_E, block.ln1)
        query = E @ attn.W_Q * inner[:, -1].mean()
        read = attn.keys_values
        key, value = (E @ _each_head(part, heads) * inner[:, :-1].mean() for part in (read.W_K, read.W_V))
        kq = attn.scale * query @ key.mT
        ov = value @ attn.W_O @ torch.linalg.pinv(model.W_E)
        answer = value @ _normed(attn.W_O, last) @ model.W_U[:, 0] * final
    return RegressionWeights(kq, ov, answer)


def _is_plain(model: Decoder, layer: int) -> bool:
    config, attn = model.config, model.mixing_layers[layer]
    sharing = config.sharing
    others = (
        config.conv,
        config.qk_norm,
        config.output_norm,
        config.output_gate != "none",
        config.temperature != "none",
        config.block != "pre_norm",
        config.heads.kind != "all",
        config.value_residual != "none" and layer > 0,
        sharing.latent is not None,
        sharing.source != "stream",
        attn.keys_values is None,
        attn.W_Q is None,
    )
    return not any(others)


def _block(model: Decoder, layer: int) -> Any:
    return model.blocks[layer]


def _each_head(weights: Float[Tensor, "G M E"], heads: int) -> Float[Tensor, "H M E"]:
    return weights.repeat_interleave(heads // len(weights), dim=0)


def _normed(vectors: Float[Tensor, "*rows M"], norm: nn.Module) -> Float[Tensor, "*rows M"]:
    """What a norm makes of vectors, but for its divisor and its bias."""
    if not isinstance(norm, Norm):
        return vectors
    centred = vectors if norm.b is None else vectors - vectors.mean(-1, keepdim=True)
    return centred * norm.w


def _divisors(model: Decoder, batch: SyntheticBatch) -> dict[str, Float[Tensor, "B T"]]:
    """One over what each norm divides by."""
    names = [f"blocks.{layer}.ln1" for layer in range(model.config.n_layers)] + ["ln_final"]
    with torch.no_grad():
        cache = model.run_with_cache(batch.given, names_filter=lambda name: name.endswith("hook_scale"))[1]
    ones = torch.ones(batch.targets.shape, device=batch.targets.device)
    return {name: 1 / cache[f"{name}.hook_scale"][..., 0] if f"{name}.hook_scale" in cache else ones for name in names}


def weight_measures(weights: RegressionWeights) -> dict[str, Float[Tensor, " H"]]:
    """How near each head is to ``KQ = omega I`` on x, ``OV = mu`` on y alone.

    ``kq.scale`` is omega, the mean of the diagonal on x. The y of what is asked is 0, so KQ's row of the query's y does
    not act on the answer of a first layer and is told apart: ``kq.query_y`` is its share of ``||KQ||^2``, and all else
    is about the rows of the query's x. ``kq.cosine`` is that with the identity on x, ``kq.block_cosine`` that of the x
    block alone, ``kq.off_block`` the share of squares outside the block. ``ov.scale`` is mu, ``ov.cosine`` that of the
    whole matrix with y alone, ``ov.off_block`` the share of squares elsewhere; ``answer.scale`` and ``answer.cosine``
    the same of the number that is answered. Cosines lie in -1 to 1, shares in 0 to 1; both are 0 for weights of 0.
    """
    width = weights.answer.shape[1] - 1
    rows, block = weights.kq[:, :width], weights.kq[:, :width, :width]
    trace = block.diagonal(dim1=1, dim2=2).sum(1)
    all_squares, squares, in_block = (part.square().sum((1, 2)) for part in (weights.kq, rows, block))
    mu, ov_squares = weights.ov[:, -1, -1], weights.ov.square().sum((1, 2))
    return {
        "kq.scale": trace / width,
        "kq.cosine": _ratio(trace, (width * squares).sqrt()),
        "kq.block_cosine": _ratio(trace, (width * in_block).sqrt()),
        "kq.off_block": _ratio(squares - in_block, squares),
        "kq.query_y": _ratio(all_squares - squares, all_squares),
        "ov.scale": mu,
        "ov.cosine": _ratio(mu, ov_squares.sqrt()),
        "ov.off_block": _ratio(ov_squares - mu.square(), ov_squares),
        "answer.scale": weights.answer[:, -1],
        "answer.cosine": _ratio(weights.answer[:, -1], weights.answer.norm(dim=1)),
    }


def layer_measures(weights: RegressionWeights) -> dict[str, Float[Tensor, ""]]:
    """What a layer's heads are together, with omega_h the scale of KQ and mu_h that of the answer.

    ``rate`` is ``sum_h omega_h mu_h``, the rate of the step (over n, of heads without a softmax); ``zero_sum`` is
    ``|sum_h mu_h| / sum_h |mu_h|``, 0 to 1 and 0 where they cancel; ``same_sign`` the part of
    ``sum_h |omega_h mu_h|`` whose signs agree, 0 to 1.
    """
    omega, mu = weight_measures(weights)["kq.scale"], weights.answer[:, -1]
    product = omega * mu
    return {
        "rate": product.sum(),
        "zero_sum": _ratio(mu.sum().abs(), mu.abs().sum()),
        "same_sign": _ratio(product.clamp_min(0).sum(), product.abs().sum()),
    }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > _TINY, part / whole.clamp_min(_TINY), 0)


def predictors(task: LinearRegression, batch: SyntheticBatch) -> dict[str, Float[Tensor, " B"]]:
    """What the closed forms answer: a step at its best rate, the same on centred examples, and ridge regression.

    The penalty of ridge is ``noise^2 width``, with which nothing does better under the task's distribution.
    """
    penalty = task.settings.noise**2 * task.settings.width
    return {
        "gradient_step": gradient_step(batch, task.best_rate(centred=False)),
        "centred_step": gradient_step(batch, task.best_rate(centred=True), centred=True),
        "ridge": ridge(batch, penalty),
    }


def prediction_measures(
    answers: Float[Tensor, " B"], task: LinearRegression, batch: SyntheticBatch
) -> dict[str, float]:
    """Answers against the closed forms.

    ``error`` is the mean squared error of each, the model's beside them; ``gap`` the mean squared difference of the
    model from each; ``cosine`` that of both as vectors over texts; ``rate`` what each is to be multiplied by to come
    nearest to the model, times its own rate (of ridge, whose rate is 1, the factor).
    """
    assert batch.values is not None
    wanted, answers = batch.values[:, -1, 0].double(), answers.double()
    found = {"error.model": float((answers - wanted).square().mean())}
    rates = {name: task.best_rate(centred=name == "centred_step") for name in ("gradient_step", "centred_step")}
    for name, other in predictors(task, batch).items():
        known = other.double()
        inner, squares = answers @ known, known @ known
        found[f"error.{name}"] = float((known - wanted).square().mean())
        found[f"gap.{name}"] = float((answers - known).square().mean())
        found[f"cosine.{name}"] = float(_ratio(inner, known.norm() * answers.norm()))
        found[f"rate.{name}"] = rates.get(name, 1.0) * float(_ratio(inner, squares))
    return found


@dataclass(frozen=True)
class RegressionHeads:
    """The probe: call it with a model and a step.

    Attributes:
        task: linear regression.
        batch: the fixed examples.
    """

    task: LinearRegression
    batch: SyntheticBatch

    @classmethod
    def of(cls, task: LinearRegression, *, n: int, seed: int, device: torch.device) -> RegressionHeads:
        """On ``n`` examples of a task, drawn with ``seed``."""
        return cls(task, task.batch(n, torch.Generator(device).manual_seed(seed)))

    def __call__(self, model: Decoder, step: int) -> dict[str, float]:  # noqa: ARG002
        """Every measure: ``error.model``, ``gap.gradient_step``, ``kq.cosine.L0H0``, ``zero_sum.L0``, ...

        A layer whose weights cannot be read (see `regression_weights`) has no numbers of its own.
        """
        with torch.no_grad():
            answers = model(self.batch.given)[:, -1, 0]
        found = prediction_measures(answers, self.task, self.batch)
        for layer in range(model.config.n_layers):
            weights = regression_weights(model, layer, self.batch)
            if weights is None:
                continue
            found |= {f"{name}.L{layer}": float(value) for name, value in layer_measures(weights).items()}
            for name, values in weight_measures(weights).items():
                found |= {f"{name}.L{layer}H{head}": value for head, value in enumerate(values.tolist())}
        return found
