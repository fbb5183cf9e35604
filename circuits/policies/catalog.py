"""The policies by name: what each is, where it is written, its settings. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from circuits.policies import settings
from circuits.policies.settings import PolicySettings
from headscope.errors import UnknownNameError

if TYPE_CHECKING:
    from circuits.policies.head_split import HeadSplit
    from circuits.policies.policy import Policy
    from headscope.models.protocol import HookedModel

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


_KINDS: tuple[PolicyKind, ...] = (
    PolicyKind(
        "full",
        "Full cache",
        "cache",
        "keeps every key: the model itself",
        "all heads",
        "control",
        settings.FullSettings,
        "circuits.policies.masks",
        "Full",
    ),
    PolicyKind(
        "streaming",
        "StreamingLLM",
        "cache",
        "every head keeps the first tokens and the most recent ones, at their positions inside the cache",
        "all heads",
        "Xiao et al. 2024, arXiv 2309.17453, section 3",
        settings.StreamingSettings,
        "circuits.policies.masks",
        "Streaming",
    ),
    PolicyKind(
        "lm-infinite",
        "LM-Infinite",
        "cache",
        "first tokens and a local window; larger distances count as a ceiling",
        "all heads",
        "Han et al. 2024, arXiv 2308.16137, section 4",
        settings.InfiniteSettings,
        "circuits.policies.masks",
        "Infinite",
    ),
    PolicyKind(
        "duo",
        "DuoAttention",
        "cache",
        "chosen key/value heads keep everything, the others the first and the most recent tokens",
        "key/value head",
        "Xiao et al. 2025, arXiv 2410.10819, section 2",
        settings.DuoSettings,
        "circuits.policies.masks",
        "Duo",
        needs_split=True,
    ),
    PolicyKind(
        "moa",
        "Spans per head (MoA)",
        "cache",
        "every head has a window of its own that may grow with the text, and the first tokens",
        "query head",
        "Fu et al. 2024, arXiv 2406.14909, section 3",
        settings.SpanSettings,
        "circuits.policies.masks",
        "Spans",
    ),
)

POLICIES: dict[str, PolicyKind] = {kind.name: kind for kind in _KINDS}


def policy_kind(name: str) -> PolicyKind:
    """A policy by name.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in POLICIES:
        raise UnknownNameError.of("policy", name, POLICIES)
    return POLICIES[name]


def build_policy(
    model: HookedModel, name: str, given: PolicySettings | dict[str, Any] | None = None, split: HeadSplit | None = None
) -> Policy:
    """The policy of that name for a model.

    Args:
        model: the model.
        name: see `POLICIES`.
        given: its settings, or what differs from the defaults.
        split: which key/value heads keep everything, for policies that need it.

    Raises:
        UnknownNameError: if there is none of that name.
        ConfigError: for impossible settings, or a missing split.
        UnsupportedError: if the model cannot run under it.
    """
    kind = policy_kind(name)
    chosen = given if isinstance(given, PolicySettings) else kind.settings.parse(given or {})
    return getattr(import_module(kind.module), kind.function).build(model, chosen, split)
