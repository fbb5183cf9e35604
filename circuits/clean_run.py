"""One clean run of a batch, from which any later layer can be run again.

An intervention changes nothing before the first layer (and, while decoding, the first row) that it acts on. A clean run
keeps what enters the chosen layers, and the keys and values of the rows before ``from_row``; running on from there
costs only the layers and rows that can differ.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from headscope.attention import tap
from headscope.models.protocol import HookedModel


class CleanRun:
    """The untouched forward pass of one batch (no padding inside the rows that are asked for).

    Attributes:
        logits: of the untouched model, rows ``from_row ... T - 1``, or those of ``positions``.
    """

    logits: Float[Tensor, "batch row d_vocab"]

    def __init__(
        self,
        model: HookedModel,
        tokens: Int[Tensor, "batch pos"],
        *,
        layers: Collection[int],
        from_row: int = 0,
        positions: Int[Tensor, " position"] | None = None,
    ) -> None:
        """Run the batch once.

        Args:
            model: the model.
            tokens: token ids; right padding is harmless, since no real row sees it.
            layers: layers from which `logits_from` will be asked to run on.
            from_row: first row that interventions act on; earlier rows are never run again.
            positions: rows whose logits are wanted, counted from ``from_row``; all by default.
        """
        self._model, self._tokens, self._from_row = model, tokens.to(model.device), from_row
        self._wanted = {} if positions is None else {"logits_to_keep": positions.to(model.device)}
        self._cache = DynamicCache() if from_row else None
        self._entering: dict[int, Tensor] = {}
        self._returns_tuple: dict[int, bool] = {}
        with torch.no_grad(), tap(model.plain), ExitStack() as stack:
            if self._cache is not None:
                prefix = self._tokens[:, :from_row]
                model.plain.base_model(input_ids=prefix, past_key_values=self._cache, use_cache=True)
            for index, block in enumerate(model.blocks):
                stack.enter_context(self._watch(block, index, keep=index in layers))
            self.logits = self._forward()

    @contextmanager
    def _watch(self, block: nn.Module, index: int, *, keep: bool) -> Generator[None, None, None]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if keep:
                self._entering[index] = _hidden(args, kwargs)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._returns_tuple[index] = isinstance(output, tuple)

        handles = (
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self) -> Float[Tensor, "batch row d_vocab"]:
        self._model.last_path = "plain"
        tokens, first = self._tokens[:, self._from_row :], self._from_row
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
        return self._model.plain(
            input_ids=tokens,
            position_ids=positions.expand(len(tokens), -1),
            past_key_values=None if self._cache is None else _borrowed(self._cache),
            use_cache=self._cache is not None,
            **self._wanted,
        ).logits

    @torch.no_grad()
    def logits_from(self, layer: int) -> Float[Tensor, "batch row d_vocab"]:
        """Logits of rows ``from_row ...`` with layers before ``layer`` taken from the clean run.

        Call it inside ``with ablate(...)`` of heads in layers from ``layer`` on.
        """
        entering = self._entering[layer]

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (entering, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": entering}

        with ExitStack() as stack:
            for index in range(layer):
                stack.enter_context(_bypassed(self._model.blocks[index], as_tuple=self._returns_tuple[index]))
            handle = self._model.blocks[layer].register_forward_pre_hook(enter, with_kwargs=True)
            stack.callback(handle.remove)
            with tap(self._model.plain):
                return self._forward()


def _borrowed(cache: DynamicCache) -> DynamicCache:
    """A cache that starts with the same tensors; appending to it makes new ones and leaves ``cache`` as it is."""
    borrowed = copy.copy(cache)
    borrowed.layers = [copy.copy(layer) for layer in cache.layers]
    return borrowed


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def _bypassed(block: nn.Module, *, as_tuple: bool) -> Generator[None, None, None]:
    """Make a block hand on its input untouched."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        return (hidden,) if as_tuple else hidden

    object.__setattr__(block, "forward", forward)
    try:
        yield
    finally:
        object.__delattr__(block, "forward")
