"""Which tokens a row sees by place alone: the parts that fixed masks are put together from.

Each part answers two questions. `sees`: which columns a row sees, both as positions of shapes that broadcast; the
causal mask is laid over it. `last_row`: the last row that sees a column when the text is read left to right, so that
decoding can drop what no later row will see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config

FOREVER = 2**60
_FEW = 1 << 20  # more blocks than a text has


@dataclass(frozen=True)
class Place:
    """Where a mask is asked for: the head, the layer, the tokens of the text, and whether rows look ahead."""

    head: int
    layer: int
    length: int
    causal: bool


class Everything(Config):
    """All tokens."""

    kind: Literal["all"] = "all"

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """All."""
        return (rows >= 0) & (columns >= 0)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """None is the last."""
        return torch.full_like(columns, FOREVER)


class Window(Config):
    """The ``size`` nearest tokens, the row's own included, ``dilation`` apart: on both sides where rows look ahead."""

    kind: Literal["window"] = "window"
    size: int = Field(default=8, ge=1)
    dilation: int = Field(default=1, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``|i - j| = 0, d, 2 d, ..., (size - 1) d``."""
        distance = (rows - columns).abs()
        return (distance < self.size * self.dilation) & (distance % self.dilation == 0)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``j + (size - 1) d``."""
        return columns + (self.size - 1) * self.dilation


class First(Config):
    """The first ``count`` tokens, which every row sees and which see every token: sinks, or global tokens."""

    kind: Literal["first"] = "first"
    count: int = Field(default=1, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``j < count`` or ``i < count``."""
        return (columns < self.count) | (rows < self.count)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """None for the first tokens."""
        return torch.where(columns < self.count, FOREVER, self.count - 1)


class Stride(Config):
    """Every ``size``-th token before the row."""

    kind: Literal["stride"] = "stride"
    size: int = Field(default=4, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``(i - j) mod size = 0``."""
        return (rows - columns) % self.size == 0

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """None is the last."""
        return torch.full_like(columns, FOREVER)


class BlockEnds(Config):
    """The last ``count`` tokens of every block of ``size``."""

    kind: Literal["block_ends"] = "block_ends"
    size: int = Field(default=4, ge=1)
    count: int = Field(default=1, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``j mod size >= size - count``."""
        return (columns % self.size >= self.size - self.count) & (rows >= 0)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """None for the ends."""
        return torch.where(columns % self.size >= self.size - self.count, FOREVER, columns)


class Block(Config):
    """The row's own block of ``size`` tokens and a halo of ``halo`` tokens around it.

    Blocks begin ``shift`` tokens earlier, which makes the first one shorter; with ``stagger`` they begin half a block
    earlier still in every other layer.
    """

    kind: Literal["block"] = "block"
    size: int = Field(default=4, ge=1)
    halo: int = Field(default=0, ge=0)
    shift: int = Field(default=0, ge=0)
    stagger: bool = False

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:
        """``start_i - halo <= j < start_i + size + halo``."""
        start = self._start(rows, place)
        return (columns >= start - self.halo) & (columns < start + self.size + self.halo)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:
        """The end of the last block whose halo holds it."""
        return self._start(columns + self.halo, place) + self.size - 1

    def _start(self, positions: Tensor, place: Place) -> Tensor:
        shift = self.shift + (self.size // 2 if self.stagger and place.layer % 2 else 0)
        return (positions + shift) // self.size * self.size - shift


class DilatedSegment(Config):
    """Of the row's segment of ``size`` tokens, every ``dilation``-th, as row and as column: LongNet's sparse segment.

    Head h takes those whose place in the segment is h modulo the dilation; other rows see nothing by it.
    """

    kind: Literal["dilated_segment"] = "dilated_segment"
    size: int = Field(default=8, ge=1)
    dilation: int = Field(default=1, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:
        """Same segment, both taken."""
        return (rows // self.size == columns // self.size) & self._taken(rows, place) & self._taken(columns, place)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:
        """The end of its segment."""
        return torch.where(self._taken(columns, place), (columns // self.size + 1) * self.size - 1, columns)

    def _taken(self, positions: Tensor, place: Place) -> Tensor:
        return positions % self.size % self.dilation == place.head % self.dilation


class Sampled(Config):
    """Beyond the row's block and its halo, every ``factor``-th of the next ``factor * size`` tokens: LSG's sparse part.

    Head h takes the tokens whose position is h modulo ``factor``.
    """

    kind: Literal["sampled"] = "sampled"
    size: int = Field(default=4, ge=1)
    halo: int = Field(default=4, ge=0)
    factor: int = Field(default=2, ge=1)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:
        """Outside of the halo, within reach, and taken by this head."""
        start, reach = rows // self.size * self.size, self.halo + self.factor * self.size
        near = (columns >= start - self.halo) & (columns < start + self.size + self.halo)
        far = (columns >= start - reach) & (columns < start + self.size + reach)
        return far & ~near & (columns % self.factor == place.head % self.factor)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """The end of the last block that reaches it."""
        reach = self.halo + self.factor * self.size
        return ((columns + reach) // self.size + 1) * self.size - 1


class RandomBlocks(Config):
    """``count`` blocks drawn for each block of rows and each head, from the earlier ones where rows do not look ahead.

    The draw is a hash of seed, head and the two blocks, so that a longer text does not change it.
    """

    kind: Literal["random"] = "random"
    size: int = Field(default=4, ge=1)
    count: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=_FEW)

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:
        """The blocks with the smallest hashes."""
        own, blocks = rows // self.size, torch.arange((place.length - 1) // self.size + 1, device=rows.device)
        open_blocks = blocks < own if place.causal else blocks != own
        drawn = _hash(_hash(own * _FEW + self.seed) + place.head * _FEW + blocks) * _FEW + blocks
        drawn = torch.where(open_blocks, drawn, FOREVER)
        cut = drawn.topk(min(self.count, len(blocks)), largest=False).values[:, -1:]
        return ((drawn <= cut) & open_blocks)[:, columns.reshape(-1) // self.size]

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """Any later row may draw it."""
        return torch.full_like(columns, FOREVER)


class Neighbourhood(Config):
    """``window`` tokens around the leader of each group of ``stride`` rows, kept within the text: GNA.

    A group's leader is its middle row; where rows do not look ahead it is the last one, and the window ends there.
    """

    kind: Literal["neighbourhood"] = "neighbourhood"
    window: int = Field(default=8, ge=1)
    stride: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _holds_its_group(self) -> Neighbourhood:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} is larger than window {self.window}: rows would miss themselves")
        return self

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:
        """``leader - window < j <= leader``, or the window centred on the leader."""
        group = rows // self.stride * self.stride
        if place.causal:
            return (columns > group + self.stride - 1 - self.window) & (columns < group + self.stride)
        leader = (group + self.stride // 2).clamp(max=place.length - 1)
        start = (leader - self.window // 2).clamp(max=place.length - self.window).clamp(min=0)
        return (columns >= start) & (columns < start + self.window)

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """The end of the last group whose window holds it."""
        return (columns + self.window) // self.stride * self.stride - 1


class Look(Config):
    """All tokens to one side, and the row's own."""

    kind: Literal["look"] = "look"
    side: Literal["left", "right"] = "left"

    def sees(self, rows: Tensor, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """``j <= i`` or ``j >= i``."""
        return columns <= rows if self.side == "left" else columns >= rows

    def last_row(self, columns: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        """None is the last to the left; to the right the token itself."""
        return torch.full_like(columns, FOREVER) if self.side == "left" else columns


def _hash(x: Tensor) -> Tensor:
    """32 mixed bits of a whole number (the finaliser of a multiplicative hash)."""
    x = (x ^ (x >> 32)) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return (x >> 16) ^ x


Part = Annotated[
    Everything
    | Window
    | First
    | Stride
    | BlockEnds
    | Block
    | DilatedSegment
    | Sampled
    | RandomBlocks
    | Neighbourhood
    | Look,
    Field(discriminator="kind"),
]
