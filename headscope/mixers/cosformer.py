"""cosFormer: linear attention that fades with distance as a cosine does."""

from __future__ import annotations

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from headscope.config import Config
from headscope.errors import UnsupportedError
from headscope.mixers.interface import MixerInput, MixerShape, NoSettings, State
from headscope.mixers.kinds import RowKind
from headscope.mixers.linear import FeatureMixer
from headscope.mixers.rotation import turn, with_zeros


class CosFormer(FeatureMixer):
    """``M_ij = relu(q_i) . relu(k_j) cos(pi (i - j) / 2 n_ctx) / sum`` (Qin et al. 2022, 2202.08791).

    The cosine is positive between tokens of a text of at most ``n_ctx`` tokens. A row whose products are all 0 is 0.
    """

    row_kind: RowKind = "positive"
    settings_type: ClassVar[type[Config]] = NoSettings

    def __init__(self, shape: MixerShape, settings: NoSettings) -> None:
        super().__init__(shape, settings)
        self.feature_width, self.angle = 2 * shape.d_key, math.pi / 2 / shape.n_ctx

    def query_features(self, query: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """The positive part."""
        return with_zeros(relu(query))

    def key_features(self, key: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """The positive part."""
        return with_zeros(relu(key))

    def reach(self, given: MixerInput) -> Tensor:
        """The cosine of the distance."""
        self._check(given.key.shape[2])
        return (given.offsets.double() * self.angle).cos().to(given.key.dtype) * given.visible

    def start(self, token: MixerInput) -> State:
        """Empty sums, and no token read."""
        return {**super().start(token), "count": token.value.new_zeros(len(token.value))}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Turn the sums back by one token, then as linear attention.

        Raises:
            UnsupportedError: for a token beyond ``n_ctx``.
        """
        self._check(int(state["count"].max()) + 1)
        angle = token.key.new_full((1,), -self.angle)
        turned = {
            "memory": turn(state["memory"].mT, angle).mT,
            "total": turn(state["total"], angle),
            "count": state["count"] + 1,
        }
        return super().step(turned, token)

    def state_size(self, length: int) -> int:
        """Sums for the cosine and the sine, and how many tokens were read."""
        return super().state_size(length) + 1

    def _check(self, size: int) -> None:
        if size > self.shape.n_ctx:
            raise UnsupportedError(
                f"cosFormer's cosine is positive up to n_ctx {self.shape.n_ctx}, and the text has {size} tokens: give "
                "a shorter text, or a model with a larger n_ctx."
            )
