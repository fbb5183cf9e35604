"""Pages of the cache, chosen by an upper bound of their keys' logits.

Quest: Tang et al. 2024, arXiv 2406.10774, section 3. LServe: Yang et al. 2025, arXiv 2502.14866, section 3.

A page keeps the smallest and the largest value of each dimension of its keys; no key of it has a dot product with q
above ``sum_d max(q_d low_d, q_d high_d)``. A row attends to the page that it stands in, complete or not, and to the
complete pages before with the highest bounds; so a page looks the same to a row whatever comes later.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.masks import sinks_and_recent, split_for
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import PagesSettings, SplitPagesSettings
from circuits.policies.top_keys import dense, top_mask, whole_cache
from headscope.kernels import expand_kv
from headscope.models.protocol import HookedModel


def page_bounds(
    query: Float[Tensor, "batch head row d_head"], key: Float[Tensor, "batch kv_head key d_head"], page: int
) -> Float[Tensor, "batch head row page"]:
    """Upper bound of ``q k`` over the keys of each complete page, in float32: 2 d_head multiply-adds each."""
    batch, groups, length, width = key.shape
    count = length // page
    paged = key[:, :, : count * page].detach().float().view(batch, groups, count, page, width)
    low, high = (expand_kv(part, query.shape[1]) for part in (paged.amin(3), paged.amax(3)))
    wanted = query.detach().float()
    return wanted.clamp_min(0) @ high.mT + wanted.clamp_max(0) @ low.mT


def candidates(rows: Rows, page: int, count: int) -> Bool[Tensor, "row page"]:
    """Which of the first ``count`` pages are complete before each row's own and have a key that the layer shows."""
    first_shown = torch.isfinite(rows.logits[0, 0]).int().argmax(-1)  # later than 0 only under a sliding window
    pages = torch.arange(count, device=rows.key.device)
    last_key = (pages + 1) * page - 1
    return (pages < (rows.positions // page)[:, None]) & (last_key >= first_shown[:, None])


def keys_of_pages(
    rows: Rows, chosen: Bool[Tensor, "batch head row page"], page: int
) -> Bool[Tensor, "batch head row key"]:
    """The keys of the chosen pages, and those of the page that each row stands in."""
    keys = torch.arange(rows.key.shape[2], device=rows.key.device)
    own = keys // page == (rows.positions // page)[:, None]
    spread = chosen.repeat_interleave(page, -1)
    return torch.nn.functional.pad(spread, (0, len(keys) - spread.shape[-1])) | own


class Pages(RowPolicy):
    """Quest: every row attends to the pages with the highest bounds; each query head chooses for itself.

    The paper's models have a key/value head per query head. The cache holds the two vectors of each page, as large as
    one entry, besides all keys. Only ``dense_layers`` of the first layers attend in full, as in the paper.
    """

    name = "quest"

    def __init__(self, page: int, pages: int, dense_layers: int = 0) -> None:
        """Attend to ``pages`` pages of ``page`` tokens, from layer ``dense_layers`` on."""
        self.page, self.pages, self.dense_layers = page, pages, dense_layers

    @classmethod
    def build(cls, model: HookedModel, settings: PagesSettings, _: HeadSplit | None = None) -> Pages:  # noqa: ARG003
        """From settings."""
        return cls(settings.page, settings.pages, settings.dense_layers)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over the keys of the chosen pages."""
        if rows.layer < self.dense_layers:
            return dense(rows)
        bounds = page_bounds(rows.query, rows.key, self.page)
        open_pages = candidates(rows, self.page, bounds.shape[-1])
        visible = keys_of_pages(rows, _chosen(bounds, open_pages, self.pages), self.page)
        cost = 2 * rows.key.shape[-1] * float(open_pages.sum(-1).float().mean())
        return Mixed.over(rows, visible, kept=whole_cache(rows, _begun(rows, self.page)), overhead=cost)


class SplitPages(RowPolicy):
    """LServe's decoding: some key/value heads stream, the others attend to the pages with the highest bounds.

    A physical page is scored by the highest bound of its logical pages and, since it is loaded once for all query
    heads of a key/value head, by the highest over these. Streaming heads keep sinks and recent tokens only. Not here:
    quantised keys, and choosing anew only every few tokens.
    """

    name = "lserve"

    def __init__(self, split: HeadSplit, sink: int, recent: int, *, logical: int, page: int, pages: int) -> None:
        """Attend to ``pages`` pages of ``page`` logical pages of ``logical`` tokens where ``split`` keeps everything,
        and to ``sink`` and ``recent`` tokens elsewhere."""
        self.split, self.sink, self.recent = split, sink, recent
        self.logical, self.page, self.pages = logical, page, pages
        self._full = torch.from_numpy(split.full)

    @classmethod
    def build(cls, model: HookedModel, settings: SplitPagesSettings, split: HeadSplit | None = None) -> SplitPages:
        """From settings and an assignment of heads.

        Raises:
            ConfigError: without an assignment, or with that of another model.
        """
        found = split_for(model, cls.name, split)
        sizes = {"logical": settings.logical, "page": settings.page, "pages": settings.pages}
        return cls(found, settings.sink, settings.recent, **sizes)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over the keys of the chosen pages, or over sinks and recent tokens."""
        full = self._full[rows.layer].to(rows.key.device)
        size = self.logical * self.page
        bounds = self._bounds(rows)
        open_pages = candidates(rows, size, bounds.shape[-1])
        paged = keys_of_pages(rows, _chosen(bounds, open_pages, self.pages), size)
        near = sinks_and_recent(rows, self.sink, self.recent)
        heads = full.repeat_interleave(rows.query.shape[1] // len(full))[None, :, None, None]
        held = (near & torch.isfinite(rows.logits[0, 0])).sum(-1).expand(*rows.key.shape[:2], -1)
        kept = torch.where(full[:, None], whole_cache(rows, _begun(rows, self.logical)), held)
        scored = float(full.float().mean()) * self.page * float(open_pages.sum(-1).float().mean())
        visible = torch.where(heads, paged, near)
        return Mixed.over(rows, visible, kept=kept, overhead=2 * rows.key.shape[-1] * scored)

    def _bounds(self, rows: Rows) -> Float[Tensor, "batch head row page"]:
        """Bounds of complete physical pages, the same for all query heads of a group."""
        fine = page_bounds(rows.query, rows.key, self.logical)
        whole = fine.shape[-1] // self.page
        coarse = fine[..., : whole * self.page].unflatten(-1, (whole, self.page)).amax(-1)
        groups = rows.key.shape[1]
        best = coarse.unflatten(1, (groups, -1)).amax(2)
        return expand_kv(best, rows.query.shape[1])


def _chosen(
    bounds: Float[Tensor, "batch head row page"], open_pages: Bool[Tensor, "row page"], pages: int
) -> Bool[Tensor, "batch head row page"]:
    """All but one of the ``pages``: one is for the page that the row stands in."""
    return top_mask(bounds.masked_fill(~open_pages, -torch.inf), pages - 1)


def _begun(rows: Rows, page: int) -> Int[Tensor, " row"]:
    """Pages that have begun by each row, those behind the model's own window not counted."""
    return rows.positions // page + 1 - rows.first_shown // page
