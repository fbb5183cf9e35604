"""Infini-attention: softmax in each segment, and a linear memory of all earlier ones."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import elu

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind

_SMALL = 1e-9


class InfiniSettings(Config):
    """Of Infini-attention.

    Attributes:
        segment: tokens of a segment; few by default, for small models.
        delta: a segment's values are written less what the memory already gives for their keys.
        gate: logit of the memory's share at the start.
    """

    segment: int = Field(default=8, ge=1)
    delta: bool = False
    gate: float = Field(default=0.0, allow_inf_nan=False)


class Infini(Mixer):
    """``z = g A_memory + (1 - g) A_local``, ``g = sigmoid(gate)`` for each head (Munkhdalai et al. 2024, 2404.07143).

    ``A_local``: causal softmax in the row's segment. ``A_memory = phi(q) S / phi(q) . n`` with ``phi = elu + 1``, S
    and n as they were when the segment began (section 2.1.2). After a segment ``n += sum phi(k)`` and
    ``S += phi(K)^T V``; with ``delta`` ``S += phi(K)^T (V - phi(K) S / phi(K) n)``. In the first segment the memory
    gives 0. The paper keeps positions out of the memory; here it reads the queries and keys that the softmax reads.

    Attributes:
        gate: (head).
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = InfiniSettings

    def __init__(self, shape: MixerShape, settings: InfiniSettings) -> None:
        super().__init__(shape, settings)
        self.segment, self.delta = settings.segment, settings.delta
        self.gate = nn.Parameter(torch.full((shape.n_heads,), settings.gate))
        kind: MatrixKind = "recurrent" if self.delta else "explicit"
        rows: RowKind = "signed" if self.delta else "substochastic"
        self.kind, self.row_kind = kind, rows

    def mix(self, given: MixerInput) -> Mix:
        """The two matrices, weighed by the gate."""
        row, column = given.rows[:, None] // self.segment, given.columns // self.segment
        local = given.scores.masked_fill((row != column) | ~given.visible, -torch.inf).softmax(-1)
        query, key = elu(given.query) + 1, elu(given.key) + 1
        sums = ((query @ key.mT) * (column < row)).sum(-1, keepdim=True)
        written = self._written(query, key) if self.delta else (query @ key.mT) * (column < row)
        gate = self.gate.sigmoid()[:, None, None]
        return Mix(gate * written / sums.clamp(min=_SMALL) + (1 - gate) * local, given.value)

    def start(self, token: MixerInput) -> State:
        """Nothing written, no tokens."""
        batch, heads, _, width = token.key.shape
        memory = token.key.new_zeros(batch, heads, width, token.value.shape[-1])
        state = {"memory": memory, "total": token.key.new_zeros(batch, heads, width)}
        return state | {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Read both; at the end of a segment write it to the memory."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        memory, total = state["memory"], state["total"]
        local = (token.query @ key.mT * token.scale).softmax(-1) @ value
        gate = self.gate.sigmoid()[:, None, None]
        z = gate * self._recalled(elu(token.query) + 1, memory, total) + (1 - gate) * local
        if key.shape[2] == self.segment:
            feature = elu(key) + 1
            new = value - self._recalled(feature, memory, total) if self.delta else value
            memory, total = memory + feature.mT @ new, total + feature.sum(2)
            key, value = key[:, :, :0], value[:, :, :0]
        return z, {"memory": memory, "total": total, "key": key, "value": value}

    def state_size(self, length: int) -> int:
        """The memory and its sums, keys and values of the current segment."""
        memory = self.shape.d_key * (self.shape.pairs * self.shape.d_head + self.shape.keyed)
        return memory + length % self.segment * self.shape.cached

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the current segment."""
        return self.shape.kept(length % self.segment)

    def _recalled(self, feature: Tensor, memory: Tensor, total: Tensor) -> Float[Tensor, "B H Q D"]:
        return feature @ memory / (feature * total[:, :, None]).sum(-1, keepdim=True).clamp(min=_SMALL)

    def _written(self, query: Tensor, key: Tensor) -> Float[Tensor, "B H Q K"]:
        """``phi(q) W``, where ``S = W V`` when the row's segment begins."""
        batch, heads, length, width = key.shape
        written, total, found = key.new_zeros(batch, heads, width, length), key.new_zeros(batch, heads, width), []
        eye = torch.eye(length, dtype=key.dtype, device=key.device)
        for begin in range(0, length, self.segment):
            part = slice(begin, begin + self.segment)
            found.append(query[:, :, part] @ written)
            new = eye[part] - self._recalled(key[:, :, part], written, total)
            written, total = written + key[:, :, part].mT @ new, total + key[:, :, part].sum(2)
        return torch.cat(found, 2)
