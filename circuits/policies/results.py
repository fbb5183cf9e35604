"""What an evaluation of policies found, as plain data; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from headscope.statistics import Interval, bootstrap_scalar

Regime = Literal["always", "after the prompt"]


@dataclass(frozen=True)
class Arm:
    """One policy with its settings, to be run on every task.

    Attributes:
        policy: name in the catalogue.
        settings: those that were given by hand.
        curve: which curve of a plot it belongs to: a policy, or a policy with a way to choose heads.
        budget: share of the text that each head may keep or look at, or NaN where there is none.
        share: share of key/value heads with a full cache, or NaN where heads are all alike.
        rule: how those heads were chosen, or empty.
        draw: number of the random draw, or -1.
    """

    policy: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    curve: str = ""
    budget: float = float("nan")
    share: float = float("nan")
    rule: str = ""
    draw: int = -1

    @property
    def label(self) -> str:
        """Its curve and where on the curve it stands."""
        parts = [self.curve or self.policy]
        if self.budget == self.budget:
            parts.append(f"{self.budget:.1%} of the text".replace(".0%", "%"))
        if self.share == self.share:
            parts.append(f"{self.share:.0%} of heads full")
        if self.draw >= 0:
            parts.append(f"draw {self.draw + 1}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Outcome:
    """One arm on one task.

    Attributes:
        arm: what was run.
        task: what it was run on.
        length: tokens of each prompt.
        measure: ``accuracy`` (share of answer tokens predicted first), ``exact`` (whether all of them are) or ``loss``
            (nats per token).
        regime: from which row on the policy acts.
        values: of each example.
        kv_bytes: keys and values in the cache at the end of the text, mean over examples.
        full_bytes: the same of the model's own cache, which in a layer with a sliding window holds no more than that.
        attended: keys attended over keys that full attention attends, over the rows under the policy.
        flops: operations of attention over those rows, choosing keys included.
        full_flops: the same of full attention.
        effective: all settings that the policy ran with, its budget included; empty where it was not made from any.
    """

    arm: Arm
    task: str
    length: int
    measure: Literal["accuracy", "exact", "loss"]
    regime: Regime
    values: Float[np.ndarray, " example"]
    kv_bytes: float
    full_bytes: float
    attended: float
    flops: float
    full_flops: float
    effective: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def n(self) -> int:
        """Examples."""
        return len(self.values)

    @property
    def share_kept(self) -> float:
        """Bytes kept over bytes of the full cache."""
        return self.kv_bytes / self.full_bytes

    @property
    def share_flops(self) -> float:
        """Operations over those of full attention."""
        return self.flops / self.full_flops

    def interval(self, seed: int = 0) -> Interval:
        """Mean of the measure with a 95 % bootstrap interval over examples."""
        return bootstrap_scalar(self.values, generator=np.random.default_rng(seed))

    def change(self, baseline: Outcome, seed: int = 0) -> Interval:
        """Mean change from another outcome on the same examples, with a paired 95 % bootstrap interval.

        Raises:
            ValueError: if it was measured on other examples.
        """
        if (baseline.task, baseline.length, baseline.n) != (self.task, self.length, self.n):
            raise ValueError(f"{self.task} {self.length} and {baseline.task} {baseline.length} have other examples.")
        return bootstrap_scalar(self.values - baseline.values, generator=np.random.default_rng(seed))

    def to_record(self) -> dict[str, Any]:
        """All but the values, as plain data."""
        own = {name: getattr(self, name) for name in _NUMBERS}
        arm = vars(self.arm) | {"settings": dict(self.arm.settings)}
        return {"arm": arm, **own, "effective": dict(self.effective)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], values: Float[np.ndarray, " example"]) -> Outcome:
        """Read what `to_record` wrote, with the values beside it."""
        told: dict[str, Any] = dict(record["arm"])
        told |= {name: float(told[name]) for name in ("budget", "share")}
        numbers: dict[str, Any] = {name: record[name] for name in _NUMBERS}
        return cls(arm=Arm(**told), values=values, **numbers, effective=dict(record.get("effective", {})))


_NUMBERS = ("task", "length", "measure", "regime", "kv_bytes", "full_bytes", "attended", "flops", "full_flops")
