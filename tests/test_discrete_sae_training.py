"""Dictionaries: the released autoencoder against autograd and its constraints, known codes recovered, safe storage."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from circuits.discrete_sae.dictionary import Dictionary, Scaling, fit_scaling
from circuits.discrete_sae.discrete_training import train_codebook, train_gumbel, train_topk
from circuits.discrete_sae.head_outputs import HeadOutputs, Slots
from circuits.discrete_sae.relu_training import ReluWeights, draw_weights, gradients, train_relu
from headscope.errors import RunError

D_MODEL, FEATURES = 12, 7


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(n: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(n, D_MODEL, generator=_generator(seed))


def _clusters(seed: int = 2) -> tuple[Tensor, Tensor]:
    """Rows around 5 orthogonal directions, and which one each belongs to."""
    generator = _generator(seed)
    directions = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))[0][:5]
    kind = torch.arange(300) % 5
    return directions[kind] + 0.03 * torch.randn(300, D_MODEL, generator=generator), kind


def test_written_out_gradients_are_those_of_autograd() -> None:
    weights, rows, sparsity = draw_weights(D_MODEL, FEATURES, _generator(), torch.device("cpu")), _rows(), 0.3
    weights.bias.add_(torch.randn(D_MODEL, generator=_generator(4)))
    encoder, threshold, decoder, bias = (part.clone().requires_grad_() for part in weights.all)
    codes = ((rows - bias) @ encoder.T + threshold).relu()
    wanted = ((codes @ decoder.T + bias - rows) ** 2).mean() + sparsity * codes.sum(-1).mean()
    wanted.backward()
    loss, found = gradients(weights, rows, sparsity)
    torch.testing.assert_close(loss, wanted.detach())
    for mine, leaf in zip(found, (encoder, threshold, decoder, bias), strict=True):
        torch.testing.assert_close(mine, leaf.grad)


def test_training_is_the_released_loop_step_by_step() -> None:
    """The naive twin: autograd, the parallel part of the gradient removed by a hook, renormalised before each pass."""
    rows = _rows()
    start = draw_weights(D_MODEL, FEATURES, _generator(), torch.device("cpu"))
    leaves = [part.clone().requires_grad_() for part in start.all]
    optimiser, loss = torch.optim.Adam(leaves, lr=1e-2), torch.zeros(())
    for _ in range(25):
        with torch.no_grad():
            for matrix in (leaves[0], leaves[2]):
                matrix /= matrix.norm(dim=-1, keepdim=True)
        codes = ((rows - leaves[3]) @ leaves[0].T + leaves[1]).relu()
        loss = ((codes @ leaves[2].T + leaves[3] - rows) ** 2).mean() + 0.05 * codes.sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        for matrix in (leaves[0], leaves[2]):
            assert matrix.grad is not None
            matrix.grad -= (matrix.grad * matrix.detach()).sum(-1, keepdim=True) * matrix.detach()
        optimiser.step()
    weights, losses = train_relu(
        rows, features=FEATURES, sparsity=0.05, learning_rate=1e-2, epochs=25, generator=_generator()
    )
    torch.testing.assert_close(losses[-1], loss.detach())
    torch.testing.assert_close(weights.threshold, leaves[1].detach())
    torch.testing.assert_close(weights.bias, leaves[3].detach())


def test_rows_keep_norm_one_and_loss_falls() -> None:
    weights, losses = train_relu(
        _rows(), features=FEATURES, sparsity=0.01, learning_rate=1e-2, epochs=60, generator=_generator()
    )
    for matrix in (weights.encoder, weights.decoder):
        torch.testing.assert_close(matrix.norm(dim=-1), torch.ones(len(matrix)))
    assert weights.decoder.shape == (D_MODEL, FEATURES)
    assert losses[-1] < 0.9 * losses[0]


def test_bias_is_tied() -> None:
    """Moving rows and bias alike changes no code and moves the reconstruction alike."""
    weights, _ = train_relu(
        _rows(), features=FEATURES, sparsity=0.01, learning_rate=1e-2, epochs=5, generator=_generator()
    )
    plain, shift = _dictionary("relu", weights), torch.ones(D_MODEL)
    moved = Dictionary("relu", plain.encoder, plain.threshold, plain.decoder, plain.bias + shift, plain.scaling)
    torch.testing.assert_close(moved.score(_rows() + shift), plain.score(_rows()))
    torch.testing.assert_close(moved.reconstruct(_rows() + shift), plain.reconstruct(_rows()) + shift)


@pytest.mark.parametrize("kind", ["topk", "gumbel", "vq"])
def test_known_codes_are_recovered(kind: str) -> None:
    """Two rows share a code exactly if they are of one kind; several codes may share a kind.

    One of the largest alone has an amplitude too: its bias may come to lie at one kind, whose rows then need no code.
    """
    rows, kinds = _clusters()
    if kind == "vq":
        parts = train_codebook(rows, features=8, epochs=40, generator=_generator())
    elif kind == "gumbel":
        parts = train_gumbel(rows, features=8, learning_rate=1e-2, epochs=200, generator=_generator())
    else:
        parts = train_topk(rows, features=8, active=1, learning_rate=1e-2, epochs=200, generator=_generator())
    amplitude, codes = ((rows - parts[3]) @ parts[0].T + parts[1]).max(-1)
    if kind == "topk":
        codes = codes.masked_fill(amplitude < amplitude.median() / 2, -1)
    for one, other in itertools.combinations(range(5), 2):
        assert not set(codes[kinds == one].tolist()) & set(codes[kinds == other].tolist())
    assert parts[4][-1] < parts[4][0]


def test_codebook_score_is_the_nearest_vector() -> None:
    rows = _rows()
    parts = train_codebook(rows, features=5, epochs=20, generator=_generator())
    nearest = torch.cdist(rows, parts[2] + parts[3]).argmin(-1)
    assert torch.equal(((rows - parts[3]) @ parts[0].T + parts[1]).argmax(-1), nearest)


@pytest.mark.parametrize("how", ["none", "model", "centred", "head"])
def test_scores_with_w_o_folded_in_equal_those_of_written_outputs(how: str) -> None:
    outputs = _outputs()
    written = outputs.written(torch.arange(len(outputs)))
    scaling = fit_scaling(written[:4], how)  # type: ignore[arg-type]
    dictionary = _dictionary("relu", draw_weights(D_MODEL, FEATURES, _generator(), torch.device("cpu")), scaling)
    for layer in range(2):
        wanted = dictionary.score(scaling(written)[:, :, layer].flatten(0, -2))
        torch.testing.assert_close(dictionary.layer_scores(outputs, layer).flatten(0, -2), wanted)


def test_scaling_per_head_centres_and_a_constant_head_vanishes() -> None:
    written = _outputs().written(torch.arange(6))
    written[:, :, 0, 1] = 3.0
    scaled = fit_scaling(written, "head")(written)
    torch.testing.assert_close(scaled.mean(0), torch.zeros_like(scaled[0]), atol=1e-5, rtol=0)
    assert (scaled[:, :, 0, 1] == 0).all()
    torch.testing.assert_close(scaled[:, :, 1].square().sum(-1).mean(0), torch.ones(2, 3))


def test_empty_outputs_have_a_symbol_of_their_own() -> None:
    outputs = _outputs()
    encoder = torch.zeros(FEATURES, D_MODEL)
    silent = Dictionary("relu", encoder, torch.full((FEATURES,), -1.0), encoder, torch.zeros(D_MODEL), _identity())
    assert (silent.codes(outputs)[0] == FEATURES).all()
    assert (silent.codes(outputs, dead_symbol=False)[0] == 0).all(), "as released: the first code"
    loud = Dictionary("relu", encoder, torch.arange(FEATURES).float(), encoder, torch.zeros(D_MODEL), _identity())
    assert (loud.codes(outputs)[0] == FEATURES - 1).all()


def test_safetensors_give_the_same_dictionary_back() -> None:
    kept = _dictionary("topk", draw_weights(D_MODEL, FEATURES, _generator(), torch.device("cpu")))
    found = Dictionary.from_tensors(load_tensors(save_tensors(kept.to_tensors())))
    assert found.kind == "topk"
    torch.testing.assert_close(found.score(_rows()), kept.score(_rows()), rtol=0, atol=0)
    torch.testing.assert_close(found.scaling.centre, kept.scaling.centre)


@pytest.mark.parametrize("broken", ["missing", "sizes", "kind"])
def test_a_broken_dictionary_is_refused(broken: str) -> None:
    kept = _dictionary("vq", draw_weights(D_MODEL, FEATURES, _generator(), torch.device("cpu"))).to_tensors()
    if broken == "missing":
        del kept["dictionary.decoder"]
    elif broken == "sizes":
        kept["dictionary.decoder"] = kept["dictionary.decoder"][1:]
    else:
        kept["dictionary.kind"] = torch.tensor([9])
    with pytest.raises(RunError):
        Dictionary.from_tensors(kept)


def _identity() -> Scaling:
    return Scaling(torch.zeros(2, 2, 3, D_MODEL), torch.ones(2, 2, 3))


def _dictionary(kind: str, weights: ReluWeights, scaling: Scaling | None = None) -> Dictionary:
    parts = (weights.encoder, weights.threshold, weights.decoder.T, weights.bias)
    return Dictionary(kind, *parts, scaling or _identity())  # type: ignore[arg-type]


def _outputs() -> HeadOutputs:
    generator = _generator(7)
    z = torch.randn(6, 2, 2, 3, 4, generator=generator)
    w_o = [torch.randn(3, 4, D_MODEL, generator=generator) for _ in range(2)]
    return HeadOutputs(z, w_o, Slots(("a", "b"), torch.full((6,), 3), torch.zeros(6, 2, dtype=torch.long)))
