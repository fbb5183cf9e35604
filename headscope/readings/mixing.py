"""Readings of a small decoder's mixing matrices, whatever the mixer: comparable views of M.

Raw M is never compared across mixers: one row of it may sum to 1, another to 30, a third to nothing with weights of
both signs. Two views are:

- *share*: ``A_ij = |M_ij| / sum_l |M_il|``, where the row looks (Ali et al. 2024, arXiv 2403.01590, take absolute
  values before they normalise);
- *moved*: ``N_ij = |M_ij| ||v_j W_O|| / sum_l |M_il| ||v_l W_O||``, what the row brings (Kobayashi et al. 2020,
  arXiv 2004.10102): a token whose value is drained has a share and moves nothing.

Of a mixer with a matrix for every channel, what token j brings to row i is the vector ``(M_cij v_cj)_c W_O``, and its
norm is N; the share is ``|M_cij|`` averaged over channels by ``mean_j v_cj^2 ||W_O[c]||``, the energy that each writes.
Gates, output norms and head weights after M are not in it: they scale a row as a whole, or (per channel) turn it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mix
from headscope.models.decoder.decoder import Decoder, Inputs

_TINY = 1e-12


@dataclass(frozen=True)
class LayerMix:
    """One layer's mixing on one batch.

    Attributes:
        layer: index of the layer.
        mix: M, the values it was applied to, and what its columns are.
        W_O: what each head writes with.
        head_weight: what head mixing multiplies each head's output by; None where it has no such weights.
    """

    layer: int
    mix: Mix
    W_O: Float[Tensor, "H D M"]
    head_weight: Float[Tensor, "B T H"] | None = None

    @property
    def per_channel(self) -> bool:
        """Whether every channel has a matrix of its own."""
        return self.mix.matrix.ndim == 5

    @property
    def weights(self) -> Float[Tensor, "B H Q K"]:
        """``|M|`` of every head, before rows are normalised; columns of the past are added to their token's."""
        return self._folded(self._unfolded)

    @property
    def _unfolded(self) -> Float[Tensor, "B H Q K"]:
        matrix = self.mix.matrix.float().abs()
        if not self.per_channel:
            return matrix
        energy = self.mix.value.float().square().mean(2) * self.W_O.float().norm(dim=-1)
        return torch.einsum("bhdqk,bhd->bhqk", matrix, energy / (energy.sum(-1, keepdim=True) + _TINY))

    @property
    def share(self) -> Float[Tensor, "B H Q K"]:
        """Where each row looks: rows of ``|M|`` that sum to 1 (to 0 where a row is empty)."""
        return _normalised(self.weights)

    @property
    def moved(self) -> Float[Tensor, "B H Q K"]:
        """What each row brings: rows of ``|M_ij| ||v_j W_O||`` that sum to 1 (to 0 where nothing moves)."""
        return _normalised(self.moved_norm)

    @property
    def moved_norm(self) -> Float[Tensor, "B H Q K"]:
        """Norm of what token j brings to row i through W_O, before rows are normalised."""
        value, W_O = self.mix.value.float(), self.W_O.float()
        if not self.per_channel:
            return self._folded(self._unfolded * (value @ W_O).norm(dim=-1)[:, :, None])
        gram = W_O @ W_O.mT
        brought = torch.einsum("bhdqk,bhkd->bhqkd", self.mix.matrix.float(), value)
        squares = torch.einsum("bhqkd,hde,bhqke->bhqk", brought, gram, brought)
        return self._folded(squares.clamp_min(0).sqrt())

    def _folded(self, weights: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        """A second reading of a token (a column of kind ``past``) counts as the token."""
        again = [i for i, kind in enumerate(self.mix.columns) if kind == "past" and self.mix.column_positions[i] >= 0]
        if not again:
            return weights
        first = self.mix.n_tokens
        folded = weights.clone()
        for column in again:
            folded[..., self.mix.column_positions[column]] += folded[..., first + column]
            folded[..., first + column] = 0
        return folded

    @property
    def row_mass(self) -> Float[Tensor, "B H Q"]:
        """Sum of each row of M, with its signs; of channels, the mean."""
        sums = self.mix.matrix.float().sum(-1)
        return sums.mean(2) if self.per_channel else sums

    @property
    def negative_share(self) -> Float[Tensor, "B H Q"]:
        """Part of ``sum |M|`` that is negative, 0 to 1."""
        matrix = self.mix.matrix.float()
        below, whole = matrix.clamp_max(0).abs().sum(-1), matrix.abs().sum(-1)
        return (below.sum(2) / (whole.sum(2) + _TINY)) if self.per_channel else below / (whole + _TINY)

    @property
    def support(self) -> Float[Tensor, "B H Q"]:
        """Effective number of columns, ``exp(entropy of the share)``."""
        return torch.special.entr(self.share).sum(-1).exp()

    @property
    def value_norm(self) -> Float[Tensor, "B H K"]:
        """Norm of what each column's value is through W_O."""
        return (self.mix.value.float() @ self.W_O.float()).norm(dim=-1)


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > _TINY, weights / total.clamp_min(_TINY), 0.0)


def read_mixing(model: Decoder, tokens: Inputs) -> list[LayerMix]:
    """M of every layer on a batch, in order; a Jacobian where a mixer is not linear in its values.

    Where heads write through experts there is no one W_O: what moves is then measured by the values themselves.
    """
    weights: dict[str, Tensor] = {}

    def keep(weight: Tensor, hook: Any) -> None:
        weights[hook.name] = weight.detach()

    layers = range(len(model.mixing_layers))
    named = {layer: f"blocks.{layer}.attn.hook_head_weight" for layer in layers}
    with (
        torch.no_grad(),
        model.recorded_mixes() as mixes,
        model.hooks(fwd_hooks=[(name, keep) for name in named.values()]),
    ):
        model(tokens)
    return [LayerMix(layer, mix, _writes(model, layer), weights.get(named[layer])) for layer, mix in enumerate(mixes)]


def _writes(model: Decoder, layer: int) -> Float[Tensor, "H D M"]:
    shape, weights = model.mixing_layers[layer].shape, model.mixing_layers[layer].W_O
    if weights is not None:
        return weights.detach()
    return torch.eye(shape.d_head, device=model.W_E.device).expand(shape.n_heads, -1, -1)
