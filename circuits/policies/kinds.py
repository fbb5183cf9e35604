"""What is known of a policy before it is built; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from circuits.policies.settings import PolicySettings

Family = Literal["cache", "sparse", "softmax"]


@dataclass(frozen=True)
class PolicyKind:
    """One way to cut attention short, or to change it.

    Attributes:
        name: what the command line calls it.
        title: short name for people.
        family: ``cache`` drops keys for good, ``sparse`` keeps them and looks at some, ``softmax`` changes weights.
        summary: how it works, in a sentence.
        unit: whether query heads or key/value heads are treated apart, or all alike.
        source: paper and section.
        settings: its settings.
        module: the module that holds it.
        function: its class there; ``build(model, settings, split)`` makes the policy.
        needs_split: whether it has to be told which heads keep everything.
        note: where it is not the paper's.
    """

    name: str
    title: str
    family: Family
    summary: str
    unit: Literal["all heads", "key/value head", "query head"]
    source: str
    settings: type[PolicySettings]
    module: str
    function: str
    needs_split: bool = False
    note: str = ""
