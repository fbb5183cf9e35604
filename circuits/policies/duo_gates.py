"""DuoAttention's gates: which key/value heads can do with sinks and recent tokens, found by optimisation.

Xiao et al. 2025, arXiv 2410.10819, section 2.2; ``mit-han-lab/duo-attention``, ``duo_attn/train.py``. Every key/value
head has a gate alpha, 1 at first, and its query heads give

    z = alpha * full + (1 - alpha) * streaming        (streaming: the first ``sink`` and the last ``recent`` keys)

On texts whose answers lie far back, AdamW lowers

    sum over label positions of mean_dim (H_full - H_gated)^2 / n_labels + penalty * mean |alpha|

with H the model's final hidden state (behind the last norm) and the model frozen. Heads that need far keys keep high
gates. The paper's equation 2 has the sum of the gates in place of the mean, which weighs the penalty layers x
key/value heads times as much; the released gates were trained with the mean. Gates are clamped to 0 ... 1 before every
step, and once more at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from circuits.policies.search_settings import GateSettings
from circuits.policies.windowed_attention import full_attention, streaming_attention
from headscope.attention import Attended, AttentionInput, tap
from headscope.errors import ConfigError, UnsupportedError
from headscope.heads import HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch

DUO_GATE = ScoreDefinition(
    name="duo_gate",
    title="Gate (DuoAttention)",
    unit="share of full attention",
    formula="alpha minimising sum_labels mean_dim (H_full - H_alpha)^2 / n_labels + penalty * mean |alpha|, "
    "z = alpha * full + (1 - alpha) * streaming",
    source="Xiao et al. 2025 (DuoAttention), arXiv 2410.10819, section 2.2; github.com/mit-han-lab/duo-attention",
    reading="0 to 1; high where far keys matter for the final hidden state; the order is what counts",
    probe="duo_gates",
    caveats="Key/value heads. Depends on the texts, the window and the number of steps; n counts texts, and one "
    "training has no interval.",
)


@dataclass(frozen=True)
class GateStep:
    """What one step saw, before it changed the gates.

    Attributes:
        step: number of the step, from 1.
        distance: mean square difference of the final hidden states at label positions.
        penalty: the gates' term of the loss, weight included.
        rate: learning rate.
    """

    step: int
    distance: float
    penalty: float
    rate: float

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.distance + self.penalty


class GateTraining:
    """A training that can be left and taken up again at any step.

    Attributes:
        settings: how it trains.
        alpha: the gates, ``[layer, kv_head]`` in float32; inside 0 ... 1 whenever they are used.
        steps_done: optimiser steps so far.
        examples_seen: texts so far.
    """

    def __init__(self, model: HookedModel, settings: GateSettings | None = None) -> None:
        """All gates open.

        Raises:
            UnsupportedError: if the model's attention does not go through the attention registry.
        """
        if not model.seam.supports("edit"):
            raise UnsupportedError(
                f"{model.name!r} has no gates to train: its attention does not go through the attention registry "
                f"({model.seam['edit'].value})."
            )
        self._model, self.settings = model, settings or GateSettings()
        shape = model.shape
        self.alpha = torch.ones(shape.n_layers, shape.n_kv_heads, device=model.device, requires_grad=True)
        self._optimiser = torch.optim.AdamW([self.alpha], lr=self.settings.rate, weight_decay=0.0)
        self.steps_done, self.examples_seen = 0, 0

    def step(self, batch: AnswerBatch) -> GateStep:
        """One optimiser step on a batch.

        Raises:
            ConfigError: if no position of the batch counts.
            UnsupportedError: if the model caps its attention logits.
        """
        self._clamp()
        rate = gate_rate(self.settings, self.steps_done)
        self._optimiser.param_groups[0]["lr"] = rate
        distance, penalty, self.alpha.grad = self.losses(batch)
        self._optimiser.step()
        self.steps_done += 1
        self.examples_seen += len(batch.tokens)
        return GateStep(self.steps_done, distance, penalty, rate)

    def losses(self, batch: AnswerBatch) -> tuple[float, float, Float[Tensor, "layer kv_head"]]:
        """Both terms of the loss at the gates as they are, and the gradient of their sum."""
        rows = (batch.labels if self.settings.rows == "labels" else batch.counted).to(self._model.device)
        if not bool(rows.any()):
            raise ConfigError(
                f"no position of this batch is marked as {self.settings.rows!r}: there is nothing to learn."
            )
        plain, tokens = self._model.plain, batch.tokens.to(self._model.device)
        with torch.no_grad(), tap(plain, attender=lambda call, _: Attended(full_attention(call))):
            wanted = _final(plain, tokens, rows)
        recompute = _checkpointed(self._model) if self.settings.checkpoint else nullcontext()
        with torch.enable_grad(), recompute, tap(plain, attender=self._attend):
            distance = (wanted - _final(plain, tokens, rows)).square().mean(-1).sum() / rows.sum()
            size = self.alpha.abs().mean() if self.settings.penalise == "mean" else self.alpha.abs().sum()
            penalty = self.settings.penalty * size
            (gradient,) = torch.autograd.grad(distance + penalty, self.alpha)
        return float(distance.detach()), float(penalty.detach()), gradient

    def train(self, batches: Iterable[AnswerBatch], on_step: Callable[[GateStep], None] | None = None) -> HeadScores:
        """Take the steps that are left, one batch each, and give the scores.

        Args:
            batches: those of the steps that are left; of a training taken up again, from its step on.
            on_step: called after every step.

        Raises:
            ConfigError: if there are fewer batches than steps.
        """
        supply = iter(batches)
        while self.steps_done < self.settings.steps:
            batch = next(supply, None)
            if batch is None:
                raise ConfigError(
                    f"the training of gates ran out of texts after {self.steps_done} of {self.settings.steps} steps: "
                    "give one batch per step, or fewer steps."
                )
            done = self.step(batch)
            if on_step is not None:
                on_step(done)
        return self.scores()

    def scores(self) -> HeadScores:
        """The gates as a score per key/value head, clamped; n is the number of texts, without an interval."""
        self._clamp()
        values = self.alpha.detach().cpu().numpy().astype(np.float64)
        blank, n = np.full(values.shape, np.nan), np.full(values.shape, self.examples_seen, dtype=np.int64)
        return HeadScores(DUO_GATE, self._model.name, values, blank, blank, n, self._model.shape.n_kv_heads)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on but the settings and the data, as tensors on the CPU."""
        kept = self._optimiser.state[self.alpha]
        parts = {
            "alpha": self.alpha.detach(),
            "exp_avg": kept.get("exp_avg", torch.zeros_like(self.alpha)).detach(),
            "exp_avg_sq": kept.get("exp_avg_sq", torch.zeros_like(self.alpha)).detach(),
            "step": torch.tensor(self.steps_done),
            "examples": torch.tensor(self.examples_seen),
        }
        return {name: part.cpu().clone() for name, part in parts.items()}

    @classmethod
    def from_state(
        cls, model: HookedModel, state: Mapping[str, Tensor], settings: GateSettings | None = None
    ) -> GateTraining:
        """Take up a training where `state` left it.

        Raises:
            ConfigError: if the state is that of a model of another size.
        """
        made = cls(model, settings)
        if state["alpha"].shape != made.alpha.shape:
            raise ConfigError(
                f"these gates are {tuple(state['alpha'].shape)} (layers x key/value heads), and {model.name!r} has "
                f"{tuple(made.alpha.shape)}."
            )
        made.steps_done, made.examples_seen = int(state["step"]), int(state["examples"])
        with torch.no_grad():
            made.alpha.copy_(state["alpha"])
        moments = {name: state[name].to(made.alpha.device).clone() for name in ("exp_avg", "exp_avg_sq")}
        made._optimiser.state[made.alpha].update(moments, step=torch.tensor(float(made.steps_done)))
        return made

    def _attend(self, call: AttentionInput, _: bool) -> Attended:
        """Full and streaming attention, mixed by the gates of the layer in float32."""
        gates = self.alpha[call.layer].repeat_interleave(call.query.shape[1] // self.alpha.shape[1])[:, None, None]
        stream = streaming_attention(call, self.settings.sink, self.settings.recent).float()
        mixed = gates * full_attention(call).float() + (1 - gates) * stream
        return Attended(mixed.to(call.query.dtype))

    @torch.no_grad()
    def _clamp(self) -> None:
        self.alpha.clamp_(0, 1)


def gate_rate(settings: GateSettings, step: int) -> float:
    """Learning rate of step ``step`` (from 0): up to the full rate, and down again at the end, never below a tenth."""
    ramp = max(settings.warm_up * settings.steps, 1.0)
    rising, falling = (step + 1) / ramp, (settings.steps - step) / ramp
    return settings.rate * min(1.0, max(rising, 0.1), max(falling, 0.1))


def _final(plain: PreTrainedModel, tokens: Tensor, rows: Bool[Tensor, "batch pos"]) -> Float[Tensor, "label d_model"]:
    """Final hidden states at the chosen positions, in float32."""
    return plain.base_model(input_ids=tokens, use_cache=False).last_hidden_state[rows].float()


@contextmanager
def _checkpointed(model: HookedModel) -> Generator[None, None, None]:
    """Every layer keeps only its input inside the block, and is run again in the backward pass."""
    own = [block.__dict__.get("forward") for block in model.blocks]
    for block in model.blocks:
        block.__dict__["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, before in zip(model.blocks, own, strict=True):
            del block.__dict__["forward"]
            if before is not None:
                block.__dict__["forward"] = before
