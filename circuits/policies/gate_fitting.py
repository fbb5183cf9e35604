"""Training eviction gates: the final hidden states shall stay what they are while a share of the keys goes.

The loss is ``|h - h_full|^2 / |h_full|^2 + strength * |mean kept - (1 - share)|``: distillation as in DuoAttention
(arXiv 2410.10819, section 2.2), and the eviction loss of Attention-Gate (arXiv 2410.12876, section 3). Gates are hard
in the forward pass, so that the loss is that of the policy itself; the backward pass takes the slope of the sigmoid
in their place (straight through), also as there. The model does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.policies.eviction_gate import EvictionGate, GatedLayer, Gates
from circuits.policies.policy import applied
from circuits.policies.rows import Mixed, Rows
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel
from headscope.models.rotary import Rotary

_STEEPEST = 20.0


@dataclass(frozen=True)
class FittedGates:
    """Trained gates and how training went.

    Attributes:
        gates: the gates after the last step.
        errors: distillation error before each step, and after the last.
        evicted: share of the decided keys that were evicted then, 0 to 1.
        losses: the whole loss then.
    """

    gates: Gates
    errors: tuple[float, ...]
    evicted: tuple[float, ...]
    losses: tuple[float, ...]


def fit_gates(
    model: HookedModel,
    batches: Sequence[Int[Tensor, "batch pos"]],
    *,
    share: float,
    grace: int,
    start: Gates | None = None,
    steps: int = 100,
    rate: float = 0.02,
    strength: float = 3.0,
    progress: Callable[[int, int], None] | None = None,
) -> FittedGates:
    """Train the gates of all key/value heads.

    Args:
        model: the model; it stays as it is.
        batches: texts to train on, longer than ``grace``, taken in turns.
        share: of the keys whose grace is over that shall be evicted, 0 to 1.
        grace: rows that see a key before it can go.
        start: gates to begin with; by default those that keep an even share of attention.
        steps: of Adam, with a rate that falls linearly to zero.
        rate: its first learning rate.
        strength: of the eviction loss.
        progress: called with steps done and steps in all.

    Raises:
        ConfigError: without a text longer than ``grace``, or for a share outside 0 to 1.
        UnsupportedError: if the model's rotation is not a fixed one.
    """
    start = Gates.by_attention(model.shape, 1.0) if start is None else start
    _check(batches, share, grace, start)
    weight, bias = (
        part.detach().clone().to(model.plain.device).requires_grad_() for part in (start.weight, start.bias)
    )
    gates = Gates(weight, bias)
    policy = SoftGate.trained(model, gates, grace)  # refuses gates of another model
    wanted = [_hidden(model, tokens) for tokens in batches]
    optimiser = torch.optim.Adam([weight, bias], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / max(steps, 1))
    history = list[tuple[float, float, float]]()
    for step in range(steps + 1):
        turn = step % len(batches)
        error, kept = _run(model, policy, batches[turn], wanted[turn])
        loss = error + strength * (kept - (1 - share)).abs()
        history.append((float(error.detach()), 1 - float(kept.detach()), float(loss.detach())))
        if step < steps:
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimiser.step()
            schedule.step()
        if progress is not None:
            progress(min(step + 1, steps), steps)
    errors, evicted, losses = zip(*history, strict=True)
    return FittedGates(Gates(weight.detach(), bias.detach()), errors, evicted, losses)


class SoftGate(EvictionGate):
    """The same policy, with gates that a gradient goes through.

    Attributes:
        decided: hard gates of each layer in the last pass, with the slope of their sigmoid.
    """

    def __init__(self, gates: Gates, grace: int, rotary: Rotary | None = None) -> None:
        """See `EvictionGate`."""
        super().__init__(gates, grace, rotary)
        self.decided = dict[int, Tensor]()

    def layer(self, index: int) -> SoftGatedLayer:
        """A layer without keys."""
        return SoftGatedLayer(self, index, self.decided)

    @property
    def kept(self) -> Float[Tensor, ""]:
        """Share of the decided keys of all layers that are kept."""
        return torch.cat([gate.flatten() for gate in self.decided.values()]).mean()


class SoftGatedLayer(GatedLayer):
    """One layer: gates as factors of the softmax, hard forward and soft backward."""

    def __init__(self, policy: EvictionGate, index: int, decided: dict[int, Tensor]) -> None:
        """No keys yet; ``decided`` takes the gates."""
        super().__init__(policy, index)
        self._decided = decided

    def mix(self, rows: Rows) -> Mixed:
        """The weights of the policy, as ``exp(logit) gate``, normalised."""
        scores = self.decide(rows)
        soft = torch.sigmoid(scores)
        gate = (scores >= 0).to(soft.dtype) + soft - soft.detach()
        self._decided[rows.layer] = gate
        gate = torch.nn.functional.pad(gate, (0, rows.key.shape[2] - gate.shape[-1]), value=1.0)
        per_head = gate.repeat_interleave(rows.query.shape[1] // rows.key.shape[1], dim=1)[:, :, None]
        factor = torch.where(self.in_grace(rows), 1.0, per_head)
        hard = Mixed.over(rows, factor > 0)
        top = rows.logits.masked_fill(factor == 0, -torch.inf).amax(-1, keepdim=True)
        # an evicted key may lie far above every kept one: its slope is cut off, its weight is zero anyway
        weights = torch.exp((rows.logits - top).clamp_max(_STEEPEST)) * factor
        return Mixed(weights / weights.sum(-1, keepdim=True), hard.attended, hard.kept)


def _hidden(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """Final hidden states under full attention."""
    with torch.no_grad():
        return model.plain.base_model(input_ids=tokens.to(model.plain.device), use_cache=False).last_hidden_state


def _run(
    model: HookedModel, policy: SoftGate, tokens: Int[Tensor, "batch pos"], wanted: Float[Tensor, "batch pos d_model"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Distillation error, and the share of decided keys that are kept."""
    with applied(model, policy):
        found = model.plain.base_model(input_ids=tokens.to(model.plain.device), use_cache=False).last_hidden_state
    wanted, found = wanted.float(), found.float()
    return (found - wanted).square().sum() / wanted.square().sum(), policy.kept


def _check(batches: Sequence[Int[Tensor, "batch pos"]], share: float, grace: int, start: Gates) -> None:
    """Refuse what there is nothing to learn from."""
    if not batches or any(tokens.shape[1] <= grace for tokens in batches):
        raise ConfigError(
            f"gates are trained on texts longer than grace ({grace} tokens): give at least one, and only such."
        )
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of keys to evict is from 0 to 1, not {share:g}.")
    if not bool(torch.isfinite(start.bias).all() and torch.isfinite(start.weight).all()):
        raise ConfigError("gates that keep everything whatever they see cannot be trained: start from finite ones.")
