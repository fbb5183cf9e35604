"""What a mixer is: a way to compute the mixing matrix M of every head that can be trained.

Whatever a variant of attention is called, one layer of it computes ``z = M v`` for each head: softmax and its relatives
write M down, linear attention and the delta rule have it in closed form, a state-space model has one for each channel.
A `Mixer` says what M is, from queries, keys and what else it reads off the stream (`gates`); everything around it
(positions, sharing of keys and values, short convolutions, output gates, head weights) belongs to the decoder.

Shapes: B batch, H heads, Q rows (queries), K columns (keys), D width of a head's value, E width of its query and key.
Row i stands at position ``K - Q + i`` of the tokens; extra columns (memory, landmarks) follow the tokens, so that token
j is column j in every variant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.kinds import ColumnKind, MatrixKind, RowKind

State = dict[str, Tensor]
"""What a mixer keeps between tokens: named tensors, the batch first."""


@dataclass(frozen=True)
class KeptTokens:
    """Keys and values in a mixer's state that are still those that its layer was given.

    Attributes:
        tokens: tokens that have a key or a value there, in any head.
        keys: numbers in the keys, once for heads that share them.
        values: numbers in the values, likewise.
    """

    tokens: int = 0
    keys: int = 0
    values: int = 0


@dataclass(frozen=True)
class MixerShape:
    """Sizes a mixer is built for.

    Attributes:
        n_heads: query heads.
        d_head: width of a head's value and output.
        d_key: width of a head's query and key.
        d_model: width of the stream that gates read.
        n_ctx: longest text it is trained on.
        layer: index of its layer.
        n_layers: layers of the model.
        key_heads: heads with keys of their own; all if None.
        value_heads: heads with values of their own; all if None.
    """

    n_heads: int
    d_head: int
    d_key: int
    d_model: int
    n_ctx: int
    layer: int = 0
    n_layers: int = 1
    key_heads: int | None = None
    value_heads: int | None = None

    @property
    def pairs(self) -> int:
        """Different pairs of a key head and a value head: so many states does a recurrence have."""
        keys, values = self.keyed, self.valued
        return len({(head * keys // self.n_heads, head * values // self.n_heads) for head in range(self.n_heads)})

    @property
    def keyed(self) -> int:
        """Heads with keys of their own: so many sums of keys does a recurrence have."""
        return self.key_heads or self.n_heads

    @property
    def valued(self) -> int:
        """Heads with values of their own: so many sums of values does a recurrence have."""
        return self.value_heads or self.n_heads

    @property
    def cached(self) -> int:
        """Numbers in the keys and values of one token, of all heads."""
        return self.kept(1).keys + self.kept(1).values

    def kept(self, tokens: int) -> KeptTokens:
        """Keys and values of some tokens, of all heads."""
        return KeptTokens(tokens, tokens * self.keyed * self.d_key, tokens * self.valued * self.d_head)


@dataclass(frozen=True)
class MixerInput:
    """What one layer's mixing is called with.

    Attributes:
        query: queries, rotated where the position axis rotates.
        key: keys of all tokens up to the last row, one for each query head.
        value: their values, one for each query head.
        gates: what `Mixer.gates` read off the stream, tokens on the third axis.
        scale: what scores are multiplied by.
        bias: what the position axis adds to the scores, or None.
        causal: whether a row may see only itself and what comes before it.
        edit_scores: a hook on the scores, before they become weights.
    """

    query: Float[Tensor, "B H Q E"]
    key: Float[Tensor, "B H K E"]
    value: Float[Tensor, "B H K D"]
    gates: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    scale: float = 1.0
    bias: Float[Tensor, "#B #H Q K"] | None = None
    causal: bool = True
    edit_scores: Callable[[Tensor], Tensor] | None = None

    @property
    def first_row(self) -> int:
        """Position of the first row."""
        return self.key.shape[2] - self.query.shape[2]

    @property
    def rows(self) -> Int[Tensor, " Q"]:
        """Position of every row."""
        return torch.arange(self.first_row, self.key.shape[2], device=self.query.device)

    @property
    def columns(self) -> Int[Tensor, " K"]:
        """Position of every token."""
        return torch.arange(self.key.shape[2], device=self.query.device)

    @property
    def offsets(self) -> Int[Tensor, "Q K"]:
        """How far each token lies before each row; negative after it."""
        return self.rows[:, None] - self.columns[None, :]

    def token(self, at: int) -> MixerInput:
        """One token of the call, without a bias."""
        one = slice(at, at + 1)
        gates = {name: gate[:, :, one] for name, gate in self.gates.items()}
        parts = {name: getattr(self, name)[:, :, one] for name in ("query", "key", "value")}
        return replace(self, **parts, gates=gates, bias=None)

    @property
    def visible(self) -> Bool[Tensor, "Q K"]:
        """Which tokens each row may see."""
        return self.offsets >= 0 if self.causal else torch.ones_like(self.offsets, dtype=torch.bool)

    @property
    def scores(self) -> Float[Tensor, "B H Q K"]:
        """``scale * q k^T`` plus the bias of the position axis, as edited; not masked."""
        scores = self.query @ self.key.mT * self.scale
        if self.bias is not None:
            scores = scores + self.bias
        return scores if self.edit_scores is None else self.edit_scores(scores)


@dataclass(frozen=True)
class Mix:
    """What a mixer answers: ``z = matrix @ value``.

    Attributes:
        matrix: M of every head; of every channel of every head where the kind is ``per_channel``.
        value: what M is applied to: the values of the tokens, then those of extra columns.
        null_mass: mass that a row gives to nothing (a null column whose value is 0), or None.
        choice: which cells a routed or learned mask left open, or None.
        columns: kinds of the extra columns, in order; empty where all columns are tokens.
        column_positions: the token each extra column stands for, -1 for none.
    """

    matrix: Float[Tensor, "B H Q K"] | Float[Tensor, "B H D Q K"]
    value: Float[Tensor, "B H K D"]
    null_mass: Float[Tensor, "B H Q"] | None = None
    choice: Bool[Tensor, "B H Q K"] | None = None
    columns: tuple[ColumnKind, ...] = ()
    column_positions: tuple[int, ...] = ()

    @property
    def z(self) -> Float[Tensor, "B H Q D"]:
        """The head outputs."""
        return apply_matrix(self.matrix, self.value)

    @property
    def n_tokens(self) -> int:
        """Columns that are tokens: the first ones."""
        return self.matrix.shape[-1] - len(self.columns)


def apply_matrix(
    matrix: Float[Tensor, "B H Q K"] | Float[Tensor, "B H D Q K"], value: Float[Tensor, "B H K D"]
) -> Float[Tensor, "B H Q D"]:
    """``z = M v``, where M is one matrix for each head or for each channel of each head."""
    if matrix.ndim == 4:
        return matrix @ value
    return torch.einsum("bhdqk,bhkd->bhqd", matrix, value)


class NoSettings(Config):
    """Of a mixer that has none."""


class Mixer(nn.Module, ABC):
    """One layer's mixer.

    Attributes:
        kind: how M comes about; see `headscope.mixers.kinds.MatrixKind`.
        row_kind: what its rows are like.
        takes_scores: whether M is made from scores, so that positions may add a bias to them.
        reads_query_key: whether it reads queries and keys at all.
        decodes: whether `step` reads a text token by token.
        streams: whether that costs less than M (one for every channel): the decoder then does so unless M is asked for.
        bidirectional: whether it also works without a causal mask.
        causal: whether it works with one.
        gate_names: what `gates` returns, in order.
        settings_type: its settings.
    """

    kind: MatrixKind = "explicit"  # what depends on settings is set by the instance
    row_kind: RowKind = "stochastic"
    takes_scores: ClassVar[bool] = True
    reads_query_key: ClassVar[bool] = True
    decodes: ClassVar[bool] = True
    streams: bool = False
    bidirectional: ClassVar[bool] = True
    causal: bool = True
    gate_names: ClassVar[tuple[str, ...]] = ()
    settings_type: ClassVar[type[Config]] = NoSettings

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        """Build the parameters; random ones are drawn from torch's generator, which the decoder seeds."""
        super().__init__()
        self.shape, self.settings = shape, settings

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:  # noqa: ARG002
        """What M needs beside queries and keys, a function of each token's stream alone: ``(B, H, T, ...)``."""
        return {}

    @abstractmethod
    def mix(self, given: MixerInput) -> Mix:
        """M of every head, and the values it is applied to: a differentiable function of its arguments."""

    def operation(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """z, by a shorter way where there is one."""
        if self.streams and given.causal and given.first_row == 0 and given.edit_scores is None:
            return self.scanned(given)
        return self.mix(given).z

    def scanned(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """z by the recurrence from the first token on; memory for one state a token, none for M."""
        rows, state = list[Tensor](), self.start(given.token(0))
        for at in range(given.query.shape[2]):
            row, state = self.step(state, given.token(at))
            rows.append(row)
        return torch.cat(rows, 2)

    def start(self, token: MixerInput) -> State:
        """The state before the first token, for the batch, device and dtype of ``token``."""
        raise NotImplementedError

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """z of one more token (``Q = K = 1``), and the state after it."""
        raise NotImplementedError

    @abstractmethod
    def state_size(self, length: int) -> int:
        """Numbers this layer keeps for one text of ``length`` tokens to read the next one."""

    def kept_tokens(self, length: int) -> KeptTokens:  # noqa: ARG002
        """Those of them that are keys and values as given, which a layer may share or make anew; none by default."""
        return KeptTokens()


class RowMixer(Mixer):
    """A mixer whose row is a function of that row's query and of the keys and gates up to it.

    `mix` takes any number of last rows (``Q <= K``), so decoding keeps keys, values and gates, and asks for one row.
    """

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        parts = {"key": token.key, "value": token.value, **token.gates}
        return {name: part[:, :, :0] for name, part in parts.items()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token and mix its row."""
        parts = {"key": token.key, "value": token.value, **token.gates}
        state = {name: torch.cat([state[name], part], 2) for name, part in parts.items()}
        gates = {name: state[name] for name in token.gates}
        given = replace(token, key=state["key"], value=state["value"], gates=gates)
        return self.mix(given).z, state

    def state_size(self, length: int) -> int:
        """A key, a value and the gates for every token and head."""
        return length * (self.shape.cached + self.shape.n_heads * self.gate_width)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)

    @property
    def gate_width(self) -> int:
        """Numbers in a head's gates for one token."""
        return len(self.gate_names)
