"""How heads are weighted for each token, and what they write.

A head's weight multiplies its z, so that what head h writes is ``results[h]`` and all results add up to the output.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.models.decoder.config import DecoderConfig


class AllHeads(nn.Module):
    """All heads, each with weight one: their outputs add up. The base of the other kinds.

    Attributes:
        makes_values: whether `values` takes the place of the layer's own.
        needs_output: whether `results` reads the layer's W_O.
    """

    makes_values: ClassVar[bool] = False
    needs_output: ClassVar[bool] = True

    def __init__(self, config: DecoderConfig) -> None:  # noqa: ARG002
        """Build the parameters of one layer."""
        super().__init__()

    def weights(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H"] | None:  # noqa: ARG002
        """Weight of each head for each token; None where all are one."""
        return None

    def values(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H D"] | None:  # noqa: ARG002
        """Values in place of the layer's own, or None."""
        return None

    def results(
        self,
        z: Float[Tensor, "B T H D"],
        W_O: Float[Tensor, "H D M"] | None,
        stream: Float[Tensor, "B T M"],  # noqa: ARG002
    ) -> Float[Tensor, "B T H M"]:
        """What each head writes."""
        assert W_O is not None
        return torch.einsum("bthd,hdm->bthm", z, W_O)

    def output(
        self, z: Float[Tensor, "B T H D"], W_O: Float[Tensor, "H D M"] | None, stream: Float[Tensor, "B T M"]
    ) -> Float[Tensor, "B T M"]:
        """What all heads write."""
        if W_O is None:
            return self.results(z, W_O, stream).sum(2)
        return z.flatten(2) @ W_O.flatten(0, 1)


_ROOM = "headscope.models.decoder"
_PLACES = {
    "all": "head_mixing:AllHeads",
    "moh": "head_routing:MixtureOfHeads",
    "experts": "head_routing:ExpertHeads",
    "switch": "head_experts:SwitchHead",
    "shrp": "head_experts:SharedExpander",
}
"""Where each kind's class is."""


def build_head_mixing(config: DecoderConfig) -> AllHeads:
    """The head mixing of a config, for one layer."""
    module, _, name = _PLACES[config.heads.kind].partition(":")
    chosen: type[AllHeads] = getattr(import_module(f"{_ROOM}.{module}"), name)
    return chosen(config)
