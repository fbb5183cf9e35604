"""How tokens know where they are in one layer: nothing, a rotation of queries and keys, or a bias on scores.

Positions come in as a tensor, 0, 1, 2, ... or drawn from a longer range, so every encoding takes any of them. A
rotation goes with every mixer that reads queries and keys; a bias only with one that makes M from scores.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from headscope.mixers.interface import MixerShape
from headscope.models.decoder.config import DecoderConfig


class NoPositions(nn.Module):
    """Only the causal mask tells the order (NoPE, arXiv 2305.19466); the base of the other encodings.

    Attributes:
        turns: whether `rotate` changes queries and keys.
        adds_bias: whether `bias` adds to the scores.
    """

    turns: ClassVar[bool] = False
    adds_bias: ClassVar[bool] = False

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:  # noqa: ARG002
        """Build the parameters of one layer."""
        super().__init__()

    def rotate(
        self,
        query: Float[Tensor, "B T H E"],
        key: Float[Tensor, "B T H E"],
        positions: Int[Tensor, " T"],  # noqa: ARG002
    ) -> tuple[Float[Tensor, "B T H E"], Float[Tensor, "B T H E"]]:
        """Queries and keys, turned by their positions."""
        return query, key

    def bias(
        self,
        query: Float[Tensor, "B H T E"],  # noqa: ARG002
        key: Float[Tensor, "B H T E"],  # noqa: ARG002
        positions: Int[Tensor, " T"],  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> Float[Tensor, "#B #H T T"] | None:
        """What is added to ``scale * q k^T``, or None."""
        return None


_ROOM = "headscope.models.decoder"
_PLACES = {
    "none": "positions:NoPositions",
    "learned": "positions:NoPositions",
    "sinusoidal": "positions:NoPositions",
    "rope": "positions_rotary:Rope",
    "xpos": "positions_rotary:Xpos",
    "coca": "positions_rotary:Coca",
    "alibi": "positions_bias:Alibi",
    "t5": "positions_bias:T5Buckets",
    "kerple": "positions_bias:Kerple",
    "fire": "positions_bias:Fire",
    "relative": "positions_content:Relative",
    "transformer-xl": "positions_content:TransformerXL",
    "cope": "positions_content:Cope",
}
"""Where each encoding's class is; learned and sinusoidal vectors are added to the stream and do nothing in a layer."""


def build_positions(config: DecoderConfig, shape: MixerShape) -> NoPositions:
    """The encoding of a config, for one layer.

    Raises:
        ConfigError: for a head that is too narrow for the encoding.
    """
    module, _, name = _PLACES[config.position.kind].partition(":")
    chosen: type[NoPositions] = getattr(import_module(f"{_ROOM}.{module}"), name)
    return chosen(config, shape)
