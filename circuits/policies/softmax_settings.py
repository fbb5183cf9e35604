"""The settings of other softmaxes, which keep every key and change its weight. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from circuits.policies.settings import PolicySettings


class TemperatureSettings(PolicySettings):
    """Of the temperature of heads.

    Attributes:
        temperature: what logits are divided by: below 1 sharpens, above 1 flattens.
        heads: query heads that it is for (``L5H1``); None is all.
    """

    temperature: float = Field(default=0.8, gt=0, allow_inf_nan=False)
    heads: tuple[str, ...] | None = None


class LengthScaleSettings(PolicySettings):
    """Of a scale that grows with the text.

    Attributes:
        trained: length in tokens up to which logits stay as they are; None takes the model's context.
    """

    trained: int | None = Field(default=None, ge=2)


class SigmoidSettings(PolicySettings):
    """Of sigmoid attention.

    Attributes:
        bias: what is added to the logits: ``length`` is minus the logarithm of the keys that the row sees.
    """

    bias: Literal["length"] | float = Field(default="length", allow_inf_nan=False)


class OffByOneSettings(PolicySettings):
    """Of the off-by-one softmax.

    Attributes:
        null_logit: logit of the column that holds nothing; None takes the column away, which is softmax.
    """

    null_logit: float | None = Field(default=0.0, allow_inf_nan=False)


class SinkRemovalSettings(PolicySettings):
    """Of taking sinks away.

    Attributes:
        which: ``first``: position 0; ``later``: other positions whose column mean is above ``alpha`` over the rows so
            far; ``dormant``: position 0, in rows that give it more than ``dormant_mass``.
        how: ``remove``: weights become 0, rows sum to less than 1; ``renormalise``: the others share the mass in
            proportion to theirs; ``share``: equally.
        heads: query heads that it is for (``L5H1``); None is all.
        alpha: see ``which``.
        least_share: a later sink must have been seen by this share of the rows so far. 0 is the definition as
            published, by which any key of the newest fifth (1 / alpha) that got one row's mass is a sink.
        dormant_mass: see ``which``.
    """

    which: Literal["first", "later", "dormant"] = "first"
    how: Literal["remove", "renormalise", "share"] = "renormalise"
    heads: tuple[str, ...] | None = None
    alpha: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    least_share: float = Field(default=0.0, ge=0, le=1)
    dormant_mass: float = Field(default=0.89, ge=0, le=1)
