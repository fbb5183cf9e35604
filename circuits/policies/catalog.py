"""The policies by name: what each is, where it is written, its settings. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from circuits.policies import eviction_settings, search_settings, settings, softmax_settings, sparse_settings
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
        "razor",
        "RazorAttention",
        "cache",
        "chosen key/value heads keep everything, the others first and recent tokens and the mean of the rest",
        "key/value head",
        "Tang et al. 2025, arXiv 2407.15891, section 3.3",
        search_settings.RazorSettings,
        "circuits.policies.razor",
        "Razor",
        needs_split=True,
        note="the recent share is of the text so far, not of the prompt; keeps at least 256 recent tokens, not 4,000",
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
    PolicyKind(
        "h2o",
        "Heavy hitters (H2O)",
        "cache",
        "keeps the keys that have received most attention so far, and the most recent ones",
        "key/value head",
        "Zhang et al. 2023, arXiv 2306.14048, section 4",
        eviction_settings.HeavyHitterSettings,
        "circuits.policies.heavy_hitters",
        "HeavyHitters",
        note="acts once the prompt has been read in full, unless told otherwise",
    ),
    PolicyKind(
        "tova",
        "Newest row's attention (TOVA)",
        "cache",
        "when the cache is full, drops the key that the newest row attends to least",
        "all heads",
        "Oren et al. 2024, arXiv 2401.06104, section 3.2",
        eviction_settings.NewestRowSettings,
        "circuits.policies.newest_row",
        "NewestRow",
        note="acts once the prompt has been read in full, unless told otherwise",
    ),
    PolicyKind(
        "d2o",
        "Eviction with merging (D2O)",
        "cache",
        "like H2O, but merges evicted keys and values into the most similar kept ones",
        "key/value head",
        "Wan et al. 2024, arXiv 2406.13035, section 3",
        eviction_settings.MergingSettings,
        "circuits.policies.merging",
        "Merging",
        note="budgets per layer come from a text read beforehand, not from the prompt itself",
    ),
    PolicyKind(
        "snapkv",
        "Votes of the prompt's end (SnapKV)",
        "cache",
        "keeps the keys of the prompt that its last rows attend to, and everything decoded after it",
        "key/value head",
        "Li et al. 2024, arXiv 2404.14469, section 4",
        eviction_settings.PromptVoteSettings,
        "circuits.policies.prompt_votes",
        "PromptVotes",
        note="votes are summed over the query heads of a key/value head; without a prompt it keeps everything",
    ),
    PolicyKind(
        "attention-gate",
        "Eviction gates (Attention-Gate)",
        "cache",
        "a gate per key/value head looks at each key once and evicts it or keeps it for good",
        "key/value head",
        "Zeng et al. 2024, arXiv 2410.12876, section 3",
        eviction_settings.GateSettings,
        "circuits.policies.eviction_gate",
        "EvictionGate",
        note="gates see the key and the attention that it got at first, not the hidden states; untrained by default",
    ),
    PolicyKind(
        "recycled",
        "Recycled Attention",
        "sparse",
        "a row in so many attends in full, those between attend to its top keys and the tokens since",
        "key/value head",
        "Xu et al. 2024, arXiv 2411.05787, section 3",
        eviction_settings.RecycledSettings,
        "circuits.policies.recycled",
        "Recycled",
    ),
    PolicyKind(
        "top-keys",
        "Top keys (IceFormer)",
        "sparse",
        "every row attends to its k largest logits, found exactly",
        "query head",
        "Mao et al. 2024, arXiv 2405.02842",
        sparse_settings.TopKeysSettings,
        "circuits.policies.top_keys",
        "TopKeys",
        note="exact search; the paper's index is approximate and cheaper",
    ),
    PolicyKind(
        "quest",
        "Pages (Quest)",
        "sparse",
        "every row attends to the pages whose keys may have the largest logits, and to its own",
        "query head",
        "Tang et al. 2024, arXiv 2406.10774, section 3",
        sparse_settings.PagesSettings,
        "circuits.policies.pages",
        "Pages",
        note="acts while the prompt is read too; the first two layers attend in full unless told otherwise",
    ),
    PolicyKind(
        "lserve",
        "Streaming heads and pages (LServe)",
        "sparse",
        "chosen key/value heads attend to the best pages, the others to the first and the most recent tokens",
        "key/value head",
        "Yang et al. 2025, arXiv 2502.14866, section 3",
        sparse_settings.SplitPagesSettings,
        "circuits.policies.pages",
        "SplitPages",
        needs_split=True,
        note="no quantised keys; pages are chosen anew for every row",
    ),
    PolicyKind(
        "longheads",
        "LongHeads",
        "sparse",
        "every head attends to the first chunk, the two newest and those that match its query, moved together",
        "query head",
        "Lu et al. 2024, arXiv 2402.10685, section 2",
        sparse_settings.ChunksSettings,
        "circuits.policies.chunks",
        "Chunks",
        note="chunks of 64 tokens, not 256",
    ),
    PolicyKind(
        "hip",
        "HiP",
        "sparse",
        "a tree search over the text finds the k keys of each row, judging a branch by its middle key",
        "query head",
        "Lee et al. 2024, arXiv 2406.09827, section 3",
        sparse_settings.TreeSettings,
        "circuits.policies.tree_search",
        "TreeSearch",
        note="searches for each query alone; the first three layers attend in full unless told otherwise",
    ),
    PolicyKind(
        "hyper",
        "HyperAttention",
        "sparse",
        "keys of the row's hash bucket, recent keys, and a weighted random sample of all others",
        "query head",
        "Han et al. 2024, arXiv 2310.05869, algorithms 1 to 4",
        sparse_settings.HashingSettings,
        "circuits.policies.hashing",
        "Hashing",
        note="buckets are taken row by row instead of sorted into blocks, so that decoding equals prefill",
    ),
    PolicyKind(
        "temperature",
        "Temperature",
        "softmax",
        "logits of chosen heads are divided by a temperature",
        "query head",
        "control",
        softmax_settings.TemperatureSettings,
        "circuits.policies.softmaxes",
        "Temperature",
    ),
    PolicyKind(
        "length-scale",
        "Scale by length",
        "softmax",
        "beyond the trained length, logits grow with the logarithm of the row's length",
        "all heads",
        "Su 2021, kexue.fm/archives/8823; Chiang and Cholak 2022, arXiv 2202.12172",
        softmax_settings.LengthScaleSettings,
        "circuits.policies.softmaxes",
        "LengthScale",
    ),
    PolicyKind(
        "sigmoid",
        "Sigmoid attention",
        "softmax",
        "a sigmoid of each logit by itself, with a bias for the row's length",
        "all heads",
        "Ramapuram et al. 2024, arXiv 2409.04431",
        softmax_settings.SigmoidSettings,
        "circuits.policies.softmaxes",
        "Sigmoid",
        note="the paper trains with it; no setting makes it the model",
    ),
    PolicyKind(
        "off-by-one",
        "Off-by-one softmax",
        "softmax",
        "softmax with one more column, which holds nothing",
        "all heads",
        "Miller 2023, evanmiller.org/attention-is-off-by-one.html; Kaul et al. 2024, arXiv 2410.17174",
        softmax_settings.OffByOneSettings,
        "circuits.policies.softmaxes",
        "OffByOne",
        note="both train with it",
    ),
    PolicyKind(
        "sink-removal",
        "Sinks taken away",
        "softmax",
        "the mass on the first token, on later sinks or on the first token of dormant rows is removed or shared out",
        "query head",
        "Yu et al. 2024, arXiv 2406.15765, section 3; Guo et al. 2024, arXiv 2410.13835",
        softmax_settings.SinkRemovalSettings,
        "circuits.policies.sink_removal",
        "SinkRemoval",
        note="later sinks are found from the rows so far, not from the whole text",
    ),
    PolicyKind(
        "act",
        "Attention calibration (ACT)",
        "softmax",
        "weights on attention sinks shrink in chosen heads, the other tokens share what that frees",
        "query head",
        "Yu et al. 2024, arXiv 2406.15765",
        settings.ActSettings,
        "circuits.calibration.act",
        "Act",
        note="every text of a batch has sinks of its own; decoding rows are calibrated too",
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
