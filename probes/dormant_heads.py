"""Dormant heads on Bigram-Backcopy: heads that work behind triggers and rest on the first token elsewhere.

A head is dormant on rows of one kind where it looks at the first token and brings nothing from there, and active on
the others. Guo et al. 2024 (arXiv 2410.13835, sections 1 and 2) name three signs: attention sinks, value-state drains
and residual-state peaks of the start token. Here each is taken on two kinds of rows, *trigger* rows, where the token
before must be copied, and all *other* rows but the first, which sees nothing but itself:

- ``share.first``, ``moved.first``: weight on the first token in both views of M (`headscope.readings.mixing`); a sink
  whose value is drained has a share and moves nothing. ``uniform.first`` is what even causal rows would have;
- ``share.previous``, ``moved.previous``: weight on the token before, which an active head copies;
- ``row_mass``, ``null_mass``: sum of a row of M, with its signs, and what it gives to a null column: rows that need
  not sum to 1 can close in place of resting on a token;
- ``output_norm``: ``||z_i W_O||`` of the head, gates, output norms and head weights included;
- ``value_norm.first``: ``||v_0 W_O||`` over the mean of the other tokens, per text (value drain: far below 1);
- ``residual_norm.first``: ``||h_0||`` over the mean of the other tokens, per text, for the embedding and behind each
  block (residual peak: far above 1).

All are means over the rows of a kind, or over texts. The paper calls the weight on the start token over all rows that
are no trigger the sink; it measures ``||v_0||`` without W_O. Weights, and norms through W_O, of a model without a
softmax are ours.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from headscope.models.decoder.decoder import Decoder, Inputs
from headscope.readings.mixing import LayerMix, read_mixing
from headscope.tasks.bigram_backcopy import BigramBackcopy
from headscope.tasks.synthetic import SyntheticBatch
from probes.mixing_profile import VIEWS, first_value_norm, view_of


@dataclass(frozen=True)
class RowKinds:
    """Which rows are triggers, and which are neither a trigger nor the first."""

    trigger: Bool[Tensor, "B T"]
    other: Bool[Tensor, "B T"]

    @classmethod
    def of(cls, batch: SyntheticBatch) -> RowKinds:
        """Those of a Bigram-Backcopy batch."""
        trigger = batch.marks["trigger"]
        other = ~trigger
        other[:, 0] = False
        return cls(trigger, other)

    def means(self, name: str, values: Float[Tensor, "B H T"]) -> dict[str, Float[Tensor, " H"]]:
        """Mean over the rows of each kind, ``name.trigger`` and ``name.other``; NaN without such a row."""
        return {f"{name}.trigger": row_mean(values, self.trigger), f"{name}.other": row_mean(values, self.other)}


def row_mean(values: Float[Tensor, "B H T"], rows: Bool[Tensor, "B T"]) -> Float[Tensor, " H"]:
    """Mean over the marked rows of all texts together; NaN where none is marked."""
    return torch.where(rows[:, None], values, 0).sum((0, 2)) / rows.sum()


def first_weight(weights: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T"]:
    """Weight of each row on the first token."""
    return weights[..., 0]


def previous_weight(weights: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T"]:
    """Weight of each row on the token before it; 0 for the first row."""
    return pad(weights.diagonal(-1, 2, 3), (1, 0))


def uniform_first_weight(batch: SyntheticBatch) -> Float[Tensor, "B 1 T"]:
    """`first_weight` of even causal rows: ``1 / (i + 1)``."""
    length = batch.targets.shape[1]
    even = 1 / torch.arange(1, length + 1, device=batch.targets.device)
    return even.expand(len(batch.targets), 1, length)


def first_norm(vectors: Float[Tensor, "B T M"]) -> Float[Tensor, " B"]:
    """Norm of the first token's vector over the mean norm of the others."""
    norms = vectors.float().norm(dim=-1)
    return norms[:, 0] / norms[:, 1:].mean(-1)


@contextmanager
def _results(model: Decoder) -> Generator[None, None, None]:
    """Every head's output is computed by itself inside the block."""
    before = [layer.use_result for layer in model.mixing_layers]
    try:
        for layer in model.mixing_layers:
            layer.use_result = True
        yield
    finally:
        for layer, used in zip(model.mixing_layers, before, strict=True):
            layer.use_result = used


@dataclass(frozen=True)
class Streams:
    """What the heads of a model write, and the stream between its blocks.

    Attributes:
        outputs: ``||z_i W_O||`` of every head, for each layer.
        residual: the stream before the first block, then behind each block.
        logits: the answers.
    """

    outputs: list[Float[Tensor, "B H T"]]
    residual: list[Float[Tensor, "B T M"]]
    logits: Float[Tensor, "B T d_output"]


def read_streams(model: Decoder, tokens: Inputs) -> Streams:
    """Run a model and keep them; no hook is left behind."""
    layers = range(model.config.n_layers)
    results = [f"blocks.{layer}.attn.hook_result" for layer in layers]
    residual = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in layers)]
    with torch.no_grad(), _results(model):
        logits, cache = model.run_with_cache(tokens, names_filter=[*results, *residual])
    outputs = [cache[name].float().norm(dim=-1).transpose(1, 2) for name in results]
    return Streams(outputs, [cache[name] for name in residual], logits)


@dataclass(frozen=True)
class DormantHeads:
    """The probe: call it with a model and a step.

    Attributes:
        task: Bigram-Backcopy.
        batch: the fixed examples.
    """

    task: BigramBackcopy
    batch: SyntheticBatch

    @classmethod
    def of(cls, task: BigramBackcopy, *, n: int, seed: int, device: torch.device) -> DormantHeads:
        """On ``n`` examples of a task, drawn with ``seed``."""
        return cls(task, task.batch(n, torch.Generator(device).manual_seed(seed)))

    def __call__(self, model: Decoder, step: int) -> dict[str, float]:  # noqa: ARG002
        """Every measure: ``share.first.other.L0H0``, ``value_norm.first.L0H0``, ``residual_norm.first.L0``, ...

        Of the model as a whole: ``accuracy.trigger``, the share of the triggers answered right; ``risk.markov``, the
        cross-entropy in nats on the other rows, beside ``risk.markov_floor``, that of the chain itself on the same
        rows; ``risk.backcopy``, that on the triggers; ``uniform.first.trigger`` and ``uniform.first.other``.
        """
        kinds, streams = RowKinds.of(self.batch), read_streams(model, self.batch.given)
        found = self._answers(streams.logits)
        even = kinds.means("uniform.first", uniform_first_weight(self.batch))
        found |= {name: float(value) for name, value in even.items()}
        for place, stream in zip(_places(model), streams.residual, strict=True):
            found[f"residual_norm.first.{place}"] = float(first_norm(stream).mean())
        for layer, written in zip(read_mixing(model, self.batch.given), streams.outputs, strict=True):
            for name, values in _head_numbers(layer, written, kinds).items():
                found |= {f"{name}.L{layer.layer}H{head}": float(value) for head, value in enumerate(values)}
        return found

    def _answers(self, logits: Float[Tensor, "B T d_output"]) -> dict[str, float]:
        risks = self.task.risks(logits, self.batch)
        return {
            "accuracy.trigger": self.task.accuracy(logits, self.batch),
            "risk.markov": risks.markov,
            "risk.markov_floor": risks.markov_floor,
            "risk.backcopy": risks.backcopy,
        }


def _places(model: Decoder) -> list[str]:
    return ["embed", *(f"L{layer}" for layer in range(model.config.n_layers))]


def _head_numbers(layer: LayerMix, written: Float[Tensor, "B H T"], kinds: RowKinds) -> dict[str, Tensor]:
    """Numbers of each head of a layer."""
    found: dict[str, Tensor] = {"value_norm.first": first_value_norm(layer).mean(0)}
    for view in VIEWS:
        weights = view_of(layer, view)
        found |= kinds.means(f"{view}.first", first_weight(weights))
        found |= kinds.means(f"{view}.previous", previous_weight(weights))
    found |= kinds.means("row_mass", layer.row_mass)
    if layer.mix.null_mass is not None:
        found |= kinds.means("null_mass", layer.mix.null_mass.float())
    return found | kinds.means("output_norm", written)
