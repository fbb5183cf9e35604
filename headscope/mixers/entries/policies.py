"""Training-free: policies on a model that was trained with softmax.

Each is an entry of ``headscope policies``, whose name is in ``config["policy"]``; that a model can also be trained with
some of them is an entry of another family.
"""

from __future__ import annotations

from collections.abc import Mapping

from headscope.mixers.kinds import Family, RowKind
from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {}

_CACHE: Family = "cache policies"
_SOFTMAX: Family = "temperature and calibration"


def _policy(
    name: str,
    title: str,
    source: str,
    equation: str,
    *,
    state: str = "2 H T D",
    note: str = "",
    family: Family = _CACHE,
    rows: RowKind = "stochastic",
    also: tuple[str, ...] = (),
) -> Variant:
    """An entry for the policy of a name."""
    return Variant(
        name=f"policy-{name}",
        title=title,
        family=family,
        source=source,
        equation=equation,
        config={"policy": name},
        rows=rows,
        training="training-free",
        state=state,
        status="policy",
        note=note,
        also=also,
    )


_DROPPING = (
    _policy("full", "Full cache", "1706.03762", "M = softmax(s): the model itself", note="The control."),
    _policy(
        "streaming",
        "StreamingLLM",
        "2309.17453",
        "M_i = softmax of s_ij over j < n and i - w < j <= i, positions counted inside the cache",
        state="2 H (n + w) D",
        also=("attention sinks kept",),
    ),
    _policy(
        "lm-infinite",
        "LM-Infinite",
        "2308.16137",
        "M_i = softmax of s_ij over j < n and i - w < j <= i, distances capped at a ceiling",
        state="2 H (n + w) D",
    ),
    _policy(
        "duo",
        "DuoAttention",
        "2410.10819",
        "M = softmax(s) in chosen key/value heads; in the others over j < n and i - w < j <= i",
        state="2 D (full T + others (n + w))",
        note="Heads are chosen by gates fitted on long texts, or by scores.",
    ),
    _policy(
        "razor",
        "RazorAttention",
        "2407.15891",
        "M_ij ~ exp(s_ij) for kept j; dropped j share N_d exp(q . mean k), N_d their number",
        state="2 D (full T + others (n + w + 1))",
        note="In heads outside of the chosen ones.",
    ),
    _policy(
        "moa",
        "Spans per head (MoA)",
        "2406.14909",
        "M_i of head h = softmax of s_ij over j < n and the last a_h + b_h i tokens",
        state="2 sum_h (n + w_h(T)) D",
        also=("mixture of sparse attention",),
    ),
    _policy(
        "h2o",
        "Heavy hitters (H2O)",
        "2306.14048",
        "M_i = softmax of s_ij over the kept j; the lowest sum_i M_ij outside the recent ones is dropped",
        state="2 H budget D",
    ),
    _policy(
        "tova",
        "Newest row's attention (TOVA)",
        "2401.06104",
        "M_i = softmax of s_ij over the kept j; the key with the lowest mean over heads of M_ij is dropped",
        state="2 H budget D",
        also=("Transformers as multi-state RNNs",),
    ),
    _policy(
        "d2o",
        "Eviction with merging (D2O)",
        "2406.13035",
        "as H2O; an evicted key e and its value are merged into the kept c of largest cosine u if u >= tau",
        state="2 H budget D",
        also=("dynamic discriminative operations",),
    ),
    _policy(
        "snapkv",
        "Votes of the prompt's end (SnapKV)",
        "2404.14469",
        "kept j of the prompt: the largest pooled sums of M_ij over its last rows i; all j decoded later",
        state="2 H (budget + decoded) D",
    ),
    _policy(
        "attention-gate",
        "Eviction gates (Attention-Gate)",
        "2410.12876",
        "M_i = softmax of s_ij over j with gate w . f_j + b >= 0 and over the newest j",
        state="2 H kept D",
        note="Gates see keys and the attention these got at first; they may be fitted, the model stays.",
    ),
)

_LOOKING = (
    _policy(
        "recycled",
        "Recycled Attention",
        "2411.05787",
        "M_i = softmax of s_ij over the top k of the last full row and the tokens since",
    ),
    _policy(
        "top-keys",
        "Top keys (IceFormer)",
        "2405.02842",
        "M_i = softmax of s_ij over the k largest s_ij",
        also=("k nearest keys",),
    ),
    _policy(
        "quest",
        "Pages (Quest)",
        "2406.10774",
        "M_i = softmax of s_ij over the pages with the largest sum_d max(q_d low_d, q_d high_d), and its own",
        state="2 H T D (1 + 1 / page)",
    ),
    _policy(
        "lserve",
        "Streaming heads and pages (LServe)",
        "2502.14866",
        "as quest in chosen key/value heads; in the others softmax over j < n and i - w < j <= i",
    ),
    _policy(
        "longheads",
        "LongHeads",
        "2402.10685",
        "M_i = softmax of s_ij over the first chunk, the two newest and the top chunks by q_i . c, moved together",
    ),
    _policy(
        "hip",
        "HiP (tree search)",
        "2406.09827",
        "M_i = softmax of s_ij over k keys found by halving k nodes, each half judged by its middle key",
        also=("hierarchically pruned attention",),
    ),
    _policy(
        "hyper",
        "HyperAttention",
        "2310.05869",
        "M_ij ~ exp(s_ij) w_ij, w = 1 in the row's hash bucket and nearby, 1 / p_i for a sample of the others",
    ),
)

_WEIGHING = (
    _policy(
        "temperature",
        "Temperature",
        "2311.00684",
        "M = softmax(s / t_h)",
        family=_SOFTMAX,
        also=("T5 attention alignment by temperature", "TempScale (2410.24200)"),
    ),
    _policy(
        "length-scale",
        "Scale by length",
        "2202.12172",
        "M_i = softmax(s_i max(1, log(i + 1) / log(trained)))",
        family=_SOFTMAX,
        also=("log-n scaling",),
    ),
    _policy(
        "sigmoid",
        "Sigmoid attention at inference",
        "2409.04431",
        "M_ij = sigmoid(s_ij - log(keys that i sees))",
        family=_SOFTMAX,
        rows="positive",
        note="The paper trains with it: `sigmoid` among the variants that are trained.",
    ),
    _policy(
        "off-by-one",
        "Off-by-one softmax at inference",
        "2410.17174",
        "M_ij = exp(s_ij) / (exp(b) + sum_l exp(s_il))",
        family=_SOFTMAX,
        rows="substochastic",
        note="Its sources train with it.",
        also=("softmax_1 at inference", "quiet attention at inference"),
    ),
    _policy(
        "sink-removal",
        "Sinks taken away",
        "2410.13835",
        "M_it <- 0 for sinks t, and that mass removed or shared out over the other tokens",
        family=_SOFTMAX,
        rows="substochastic",
    ),
    _policy(
        "act",
        "Attention calibration (ACT)",
        "2406.15765",
        "M_it <- beta M_it for sinks t; the mass that frees goes to the others in proportion",
        family=_SOFTMAX,
    ),
)

_LEFT_OUT = (
    Variant(
        name="gear",
        title="Quantised keys and values (GEAR, KIVI)",
        family=_CACHE,
        source="2403.05527",
        equation="k, v <- quantised + low rank + sparse outliers; M = softmax(q . k)",
        training="training-free",
        status="left out",
        note="M is that of softmax on keys that are off by an error of rounding: it needs a cache that stores few "
        "bits, and is no other way to mix.",
        also=("KIVI",),
    ),
)

ENTRIES: tuple[Variant, ...] = (*_DROPPING, *_LOOKING, *_WEIGHING, *_LEFT_OUT)
