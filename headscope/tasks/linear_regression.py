"""In-context linear regression: examples of a random linear function, then a vector whose value is asked."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, Scored, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_normal


class LinearRegressionSettings(Config):
    """Of in-context linear regression.

    Attributes:
        width: numbers of a vector (d).
        examples: vectors with their values before the question (L).
        noise: spread of the normal noise on values.
    """

    width: int = Field(default=5, ge=1)
    examples: int = Field(default=20, ge=1)
    noise: float = Field(default=0.0, ge=0)


class LinearRegression(SyntheticTask[LinearRegressionSettings]):
    """Vectors and their values under a function of the text, then a vector alone (2503.12734; 2212.07677)::

        inputs   (x1, y1)  (x2, y2)  (x3, y3)  (x, 0)       y = w . x + noise
        values      .         .         .         y

    ``x`` is standard normal and ``w`` normal with variance ``1 / width``, so that ``w . x`` has variance 1. A model
    answers one number at each position; the last counts, by its squared error. It has no order of examples to know, so
    needs no positions. What a layer of attention is compared with: one step of gradient descent from zero weights
    (`gradient_step`), whose keys and queries meet in a multiple of the identity and whose values and outputs touch the
    last entry only, and the best of all, `ridge`.

    Marks: ``query``, the last position; ``weights``, the function of each text.
    """

    settings_type: ClassVar[type[Config]] = LinearRegressionSettings

    @property
    def d_vocab(self) -> int:
        """None: inputs are vectors."""
        return 0

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.examples + 1

    def of_length(self, length: int) -> SyntheticTask[LinearRegressionSettings]:
        """Texts of ``length - 1`` examples and the question.

        Raises:
            ConfigError: if there would be no example.
        """
        return self.changed(examples=length - 1)

    @property
    def d_input(self) -> int:
        """A vector and its value."""
        return self.settings.width + 1

    @property
    def d_output(self) -> int:
        """The value."""
        return 1

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings = self.settings
        weights = draw_normal((n, settings.width), generator) * settings.width**-0.5
        vectors = draw_normal((n, self.length, settings.width), generator)
        value = (vectors @ weights[..., None]).squeeze(2)
        value = value + settings.noise * draw_normal((n, self.length), generator)
        last = torch.arange(self.length, device=value.device) == settings.examples
        inputs = torch.cat([vectors, value.masked_fill(last, 0)[..., None]], 2)
        targets = torch.where(last, 0, NOTHING_ASKED).expand(n, -1)
        query = torch.full((n, 1), settings.examples, device=value.device)
        asked = value.masked_fill(~last, torch.nan)[..., None]
        return SyntheticBatch(None, targets, {"query": query, "weights": weights}, inputs, asked, query)

    def loss(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Float[Tensor, ""]:
        """Squared error, mean over the texts."""
        return (logits[:, -1, 0].float() - _wanted(batch)).square().mean()

    def scored(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Scored:
        """Of each value's square, what is explained: all of it is exact, 0 is as good as answering 0."""
        wanted = _wanted(batch).double()
        squares = wanted.square()
        return Scored(squares - (logits[:, -1, 0].detach().double() - wanted).square(), squares)

    def best_rate(self, *, centred: bool) -> float:
        """The rate of `gradient_step` with the least expected error under this task's distribution.

        ``n / (n + (d + 1) + s d)``, centred ``n / (n + d + s d)``, with n examples of width d and noise variance s.
        """
        n, d, variance = self.settings.examples, self.settings.width, self.settings.noise**2
        return n / (n + d + (0 if centred else 1) + variance * d)


def _wanted(batch: SyntheticBatch) -> Float[Tensor, " B"]:
    assert batch.values is not None
    return batch.values[:, -1, 0]


def _parts(batch: SyntheticBatch) -> tuple[Float[Tensor, "B L d"], Float[Tensor, "B L"], Float[Tensor, "B d"]]:
    """Vectors and values of the examples, and the vector that is asked."""
    assert batch.inputs is not None
    return batch.inputs[:, :-1, :-1], batch.inputs[:, :-1, -1], batch.inputs[:, -1, :-1]


def gradient_step(batch: SyntheticBatch, rate: float, *, centred: bool = False) -> Float[Tensor, " B"]:
    """``rate / n sum_i y_i x_i . x``: one step of gradient descent on the mean square error, from zero weights.

    ``centred`` takes the mean of the examples off each ``x_i`` (2503.12734): what two softmax heads of opposite sign
    come to when their scores are small.
    """
    vectors, values, query = _parts(batch)
    if centred:
        vectors = vectors - vectors.mean(1, keepdim=True)
    return rate * torch.einsum("bl,bld,bd->b", values, vectors, query) / vectors.shape[1]


def ridge(batch: SyntheticBatch, penalty: float) -> Float[Tensor, " B"]:
    """The answer of ridge regression; with penalty ``noise^2 * width`` the best that can be, as weights are normal.

    Least squares with a penalty of 0, of least norm where examples are fewer than numbers.
    """
    vectors, values, query = (part.double() for part in _parts(batch))
    if penalty == 0:
        weights = torch.linalg.pinv(vectors) @ values[..., None]
    else:
        gram = vectors.mT @ vectors + penalty * torch.eye(vectors.shape[2], device=vectors.device, dtype=vectors.dtype)
        weights = torch.linalg.solve(gram, vectors.mT @ values[..., None])
    return (query * weights.squeeze(2)).sum(1).float()
