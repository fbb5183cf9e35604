"""How many keys each layer keeps, by how evenly it attends: D2O's layer level.

Wan et al. 2024, arXiv 2406.13035, section 3.2: layers that spread their attention lose more when keys are evicted, so
they get more of the cache. The measure is the variance over keys of the attention received.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.attention import AttentionCall, refuse_policy, tap
from headscope.errors import ConfigError
from headscope.kernels import causal_logits
from headscope.models.protocol import HookedModel

_TINY = 1e-6
_ROW_CHUNK = 256


def concentration(received: Float[Tensor, "batch head key"]) -> float:
    """How unevenly a layer attends, 0 to 1.

    ``F = mean over heads of (V_h - min V) / (max V - min V + 1e-6)``, with V_h the variance over keys of
    ``sum_i A[i, j]``, averaged over the batch.
    """
    variance = received.float().var(-1).mean(0)
    low, high = variance.min(), variance.max()
    return float(((variance - low) / (high - low + _TINY)).mean())


def shared_out(concentrations: list[float], budget: int) -> tuple[int, ...]:
    """Budgets of layers with this mean: ``n_layers * budget * softmax(-F)``, rounded, at least 1.

    Raises:
        ConfigError: if the mean is below 1.
    """
    if budget < 1:
        raise ConfigError(f"a budget is at least 1 token, not {budget}.")
    share = torch.softmax(-torch.tensor(concentrations, dtype=torch.float64), 0)
    return tuple(max(1, round(float(one))) for one in share * len(concentrations) * budget)


def density_budgets(model: HookedModel, tokens: Int[Tensor, "batch pos"], budget: int) -> tuple[int, ...]:
    """Budgets of layers measured on a text.

    Args:
        model: the model.
        tokens: the text, full attention over it.
        budget: mean number of keys per key/value head.

    Raises:
        ConfigError: if the budget is below 1.
    """
    found = dict[int, float]()

    def note(call: AttentionCall) -> None:
        found[call.layer] = concentration(_received(call))

    with torch.no_grad(), tap(model.plain, reader=note):
        model.plain.base_model(input_ids=tokens.to(model.plain.device), use_cache=False)
    return shared_out([found[layer] for layer in range(model.shape.n_layers)], budget)


def _received(call: AttentionCall) -> Float[Tensor, "batch head key"]:
    """Attention received by each key, from all rows: a chunk of rows at a time."""
    refuse_policy(call)
    total = torch.zeros(*call.query.shape[:2], call.key.shape[2], device=call.query.device)
    for first, query in enumerate(call.query.split(_ROW_CHUNK, dim=2)):
        logits = causal_logits(
            query, call.key, call.scale, first_row=first * _ROW_CHUNK, window=call.window, softcap=call.softcap
        )
        total += logits.softmax(-1).sum(2)
    return total
