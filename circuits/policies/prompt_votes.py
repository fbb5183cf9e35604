"""SnapKV: the last rows of the prompt vote for the keys that stay.

Li et al. 2024, arXiv 2404.14469, section 4 and listing 1: the attention of the last ``window`` rows of the prompt is
summed over them for each earlier key, pooled over neighbouring keys so that what stays hangs together, and the keys of
most votes stay besides the window. Tokens decoded later all stay. Pooling there is a mean or a maximum of odd width.
The paper votes per head; here votes are summed over the query heads of each key/value head, which share the kept set.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.policies.eviction_settings import PromptVoteSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import by_group, check_budget
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from headscope.attention import AttentionInput
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel


class PromptVotes(Policy):
    """Each key/value head keeps ``budget`` keys of the prompt, and everything after it.

    The prompt is the rows before the first that the policy acts on. Without any (``applied(..., from_row=0)``) nobody
    has voted, and it keeps everything; so it does with a prompt no longer than the budget.
    """

    name = "snapkv"
    eager = False

    def __init__(self, budget: int, window: int, *, kernel: int = 7, pooling: str = "max") -> None:
        """Keep ``budget`` keys of the prompt, its last ``window`` ones included; see `PromptVoteSettings`.

        Raises:
            ConfigError: if the window does not fit into the budget, or the kernel is even.
        """
        check_budget(budget, window)
        if kernel % 2 == 0 or pooling not in ("max", "mean"):
            raise ConfigError(f"pooling is 'max' or 'mean' over an odd kernel, not {pooling!r} over {kernel}.")
        self.budget, self.window, self.kernel, self.pooling = budget, window, kernel, pooling

    @classmethod
    def build(cls, model: HookedModel, settings: PromptVoteSettings, _: HeadSplit | None = None) -> PromptVotes:  # noqa: ARG003
        """From settings."""
        return cls(settings.budget, settings.window, kernel=settings.kernel, pooling=settings.pooling)

    def layer(self, index: int) -> VotedPrompt:  # noqa: ARG002
        """A layer that has seen no prompt."""
        return VotedPrompt(self)


class VotedPrompt:
    """One layer: the attention of the last rows, then the keys that they chose."""

    def __init__(self, policy: PromptVotes) -> None:
        """No prompt yet."""
        self._policy = policy
        self._recent: Float[Tensor, "batch kv_head row key"] | None = None
        self._kept: Bool[Tensor, "batch kv_head key"] | None = None

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    @torch.no_grad()
    def observe(self, rows: Rows) -> None:
        """Keep the attention of the last rows so far, summed over each group."""
        last = rows.logits[:, :, -self._policy.window :]
        weights = by_group(torch.softmax(last, -1), rows.key.shape[1]).sum(2)
        if self._recent is not None:
            before = torch.nn.functional.pad(self._recent, (0, weights.shape[-1] - self._recent.shape[-1]))
            weights = torch.cat([before, weights], 2)
        self._recent = weights[:, :, -self._policy.window :]

    def mix(self, rows: Rows) -> Mixed:
        """Rows attend to what was voted for, and to everything after the prompt."""
        if self._recent is None:
            return Mixed.over(rows, rows.causal[None, None])
        if self._kept is None:
            self._kept = chosen(self._recent, self._policy)
        later = (0, rows.key.shape[2] - self._kept.shape[-1])
        visible = torch.nn.functional.pad(self._kept, later, value=True)
        group = rows.query.shape[1] // rows.key.shape[1]
        return Mixed.over(rows, visible.repeat_interleave(group, dim=1)[:, :, None])


def votes(
    weights: Float[Tensor, "batch kv_head row key"], kernel: int, pooling: str
) -> Float[Tensor, "batch kv_head earlier"]:
    """Votes for the keys before the voting rows: attention summed over the rows, then pooled over neighbours.

    At the edges a mean counts the missing neighbours as zero, as the paper's code does.

    Args:
        weights: attention of the last rows over all keys, their own included.
        kernel: width of the pooling, odd.
        pooling: ``max`` or ``mean``.
    """
    earlier = weights[..., : weights.shape[-1] - weights.shape[2]].sum(2)
    if earlier.shape[-1] == 0:
        return earlier
    pool = torch.nn.functional.max_pool1d if pooling == "max" else torch.nn.functional.avg_pool1d
    return pool(earlier, kernel, stride=1, padding=kernel // 2)


def chosen(weights: Float[Tensor, "batch kv_head row key"], policy: PromptVotes) -> Bool[Tensor, "batch kv_head key"]:
    """The keys of the prompt that stay: the window, and the others of most votes."""
    size, window = weights.shape[-1], weights.shape[2]
    kept = torch.ones(*weights.shape[:2], size, dtype=torch.bool, device=weights.device)
    if size <= policy.budget:
        return kept
    cast = votes(weights, policy.kernel, policy.pooling)
    # pooling makes equal votes common: a stable order takes the earliest of them
    order = cast.sort(dim=-1, descending=True, stable=True).indices
    return kept.scatter_(-1, order[..., policy.budget - window :], value=False)
