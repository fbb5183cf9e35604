"""Linear attention: a dot product of features in place of the exponential of one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import elu

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class FeatureMixer(Mixer):
    """``M_ij = phi(q_i) . psi(k_j)``, with ``normalise`` over its row sum; the base of linear attention.

    Attributes:
        normalise: rows are divided by their sum.
        feature_width: numbers in the features of one head's key.
        small: what is added to a row sum before it divides.
        by_head: whether heads have features of their own, so that heads with one key have several states.
    """

    kind: MatrixKind = "linear"
    takes_scores: ClassVar[bool] = False
    small: ClassVar[float] = 1e-12
    by_head: ClassVar[bool] = False
    normalise: bool = True
    feature_width: int

    @abstractmethod
    def query_features(self, query: Float[Tensor, "B H Q E"], scale: float) -> Float[Tensor, "B H Q F"]:
        """``phi`` of the queries, which the scale of scores is shared out to where the mixer has one."""

    @abstractmethod
    def key_features(self, key: Float[Tensor, "B H K E"], scale: float) -> Float[Tensor, "B H K F"]:
        """``psi`` of the keys."""

    def divisor(self, total: Tensor) -> Tensor:
        """What a row is divided by, from its sum."""
        return total + self.small

    def mix(self, given: MixerInput) -> Mix:
        """All dot products of features, then the row sums."""
        weights = self.products(given.query, given.key, given.scale) * self.reach(given)
        if self.normalise:
            weights = weights / self.divisor(weights.sum(-1, keepdim=True))
        return Mix(weights, given.value)

    def products(
        self, query: Float[Tensor, "B H Q E"], key: Float[Tensor, "B H K E"], scale: float
    ) -> Float[Tensor, "B H Q K"]:
        """``phi(q_i) . psi(k_j)`` of all rows and columns."""
        return self.query_features(query, scale) @ self.key_features(key, scale).mT

    def reach(self, given: MixerInput) -> Tensor:
        """What products of features are multiplied by: 1 for a token that a row sees, else 0."""
        return given.visible

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        batch, heads = token.key.shape[:2]
        state = {"memory": token.key.new_zeros(batch, heads, self.feature_width, token.value.shape[-1])}
        return state | ({"total": token.key.new_zeros(batch, heads, self.feature_width)} if self.normalise else {})

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """``S <- S + psi(k) v^T``; ``z = phi(q) S``, over ``phi(q) . sum psi(k)`` where rows are normalised."""
        key, query = self.key_features(token.key, token.scale), self.query_features(token.query, token.scale)
        keep, write = self.keep_and_write(token)
        state = dict(state, memory=keep * state["memory"] + write * (key.mT @ token.value))
        z = query @ state["memory"]
        if self.normalise:
            state["total"] = (keep * state["total"][..., None] + write * key.mT).squeeze(-1)
            z = z / self.divisor(query @ state["total"][..., None])
        return z, state

    def keep_and_write(self, token: MixerInput) -> tuple[Tensor | float, Tensor | float]:  # noqa: ARG002
        """What the sums are multiplied by before a token, and how strongly the token is added."""
        return 1.0, 1.0

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head, and the sum of its keys' features where rows are normalised."""
        shape = self.shape
        states, sums = (shape.n_heads, shape.n_heads) if self.by_head else (shape.pairs, shape.keyed)
        return self.feature_width * (states * shape.d_head + sums * self.normalise)


class LinearSettings(Config):
    """Of linear attention.

    Attributes:
        features: ``elu``: elu(x) + 1, positive; ``identity``: none.
        normalise: rows are divided by their sum.
    """

    features: Literal["elu", "identity"] = "elu"
    normalise: bool = True


class Linear(FeatureMixer):
    """``M_ij = phi(q_i) . phi(k_j)``, with ``normalise`` over its row sum (Katharopoulos et al. 2020, 2006.16236)."""

    settings_type: ClassVar[type[Config]] = LinearSettings
    small: ClassVar[float] = 1e-6

    def __init__(self, shape: MixerShape, settings: LinearSettings) -> None:
        super().__init__(shape, settings)
        self.features, self.normalise, self.feature_width = settings.features, settings.normalise, shape.d_key
        positive: RowKind = "stochastic" if self.normalise else "positive"
        self.row_kind = positive if self.features == "elu" else "signed"

    def query_features(self, query: Tensor, scale: float) -> Tensor:
        """Features of a query; only plain queries are scaled."""
        return elu(query) + 1 if self.features == "elu" else query * scale

    def key_features(self, key: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """Features of a key."""
        return elu(key) + 1 if self.features == "elu" else key
