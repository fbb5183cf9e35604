"""What a model answers to few-shot prompts: scores of all answers, the best one, and by how much the right one leads.

The prompts go through ``model.plain``, so that whatever is installed at the seam acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.models.protocol import HookedModel
from headscope.tasks.contrast import NO_TOKEN
from headscope.tasks.in_context import InContextBatch

_AT_ONCE = 16


def label_scores(
    model: HookedModel, batch: InContextBatch, items: Sequence[int] | Int[Tensor, " chosen"] | None = None
) -> Float[Tensor, "chosen label"]:
    """Log-probability of each answer behind its prompt, nats; differentiable.

    **Definition**: ``score[i, l] = sum_s log p(answer[l, s] | prompt[i], answer[l, :s])``, at most 0, and for options
    as text (``batch.per_token``) that sum over the number of tokens. The softmax is in float32. Where an item has fewer
    answers than others the score of those missing is minus infinity.

    **Source**: for single tokens the rule of the released code of ACT (arXiv 2406.15765), argmax over the logits of
    the labels; per token: the length-normalised choice of Brown et al. 2020, arXiv 2005.14165, section 2.4.

    Args:
        model: the model; one forward pass for all chosen items together.
        batch: prompts of that model's tokenizer.
        items: which items, in this order; all by default.
    """
    chosen = torch.arange(len(batch)) if items is None else torch.as_tensor(items, dtype=torch.long)
    used, place = batch.rows[chosen].unique(return_inverse=True)
    place = place - int((used == NO_TOKEN).any())  # of a row among those used; -1 for no row
    used = used[used != NO_TOKEN]
    lengths = batch.lengths[used]
    answers = batch.answers[chosen]
    n_tokens = (answers != NO_TOKEN).sum(-1)
    at = lengths[place.clamp_min(0)][..., None] - n_tokens[..., None] + torch.arange(answers.shape[-1])
    real = answers != NO_TOKEN
    kept, row_of = at[real].unique(return_inverse=True)  # positions whose logits are needed in any row
    device = model.device
    output = model.plain(
        input_ids=batch.tokens[used, : int(lengths.max())].to(device),
        use_cache=False,
        logits_to_keep=kept.to(device),
    )
    which = place[..., None].expand_as(answers)[real]
    logits = output.logits[which.to(device), row_of.to(device)].float()
    spoken = logits.log_softmax(-1).gather(-1, answers[real].to(device)[:, None])[:, 0]
    total = torch.zeros(real.shape, device=device).masked_scatter(real.to(device), spoken).sum(-1)
    score = total / n_tokens.clamp_min(1).to(device) if batch.per_token else total
    return score.masked_fill((n_tokens == 0).to(device), -torch.inf)


def margins(
    model: HookedModel, batch: InContextBatch, items: Sequence[int] | Int[Tensor, " chosen"] | None = None
) -> Float[Tensor, " chosen"]:
    """Score of the right answer minus that of the best wrong one, nats; above 0 is right; differentiable."""
    scores = label_scores(model, batch, items)
    labels = batch.labels if items is None else batch.labels[torch.as_tensor(items, dtype=torch.long)]
    right = torch.nn.functional.one_hot(labels, scores.shape[-1]).bool().to(scores.device)
    return scores[right] - scores.masked_fill(right, -torch.inf).amax(-1)


@torch.no_grad()
def predict(model: HookedModel, batch: InContextBatch, *, batch_size: int = _AT_ONCE) -> Int[np.ndarray, " item"]:
    """The answer with the highest score, per item (the first of equals); prompts of about one length run together."""
    longest = batch.lengths[batch.rows.amax(-1)]
    found = np.empty(len(batch), dtype=np.int64)
    for items in longest.argsort(stable=True).split(batch_size):
        found[items.numpy()] = label_scores(model, batch, items).argmax(-1).cpu().numpy()
    return found
