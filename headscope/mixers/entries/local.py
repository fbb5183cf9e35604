"""Fixed masks: local, windowed, strided, dilated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.kinds import Family
from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {
    "masked": "headscope.mixers.masked:Masked",
    "gated-streaming": "headscope.mixers.streaming_heads:GatedStreaming",
    "compensated": "headscope.mixers.streaming_heads:Compensated",
    "block-summaries": "headscope.mixers.block_summaries:BlockSummaries",
}

_FAMILY: Family = "local and windowed"
_ALL = {"kind": "all"}


def _window(size: int, dilation: int = 1) -> dict[str, Any]:
    return {"kind": "window", "size": size, "dilation": dilation}


def _first(count: int) -> dict[str, Any]:
    return {"kind": "first", "count": count}


def _masked(*patterns: tuple[dict[str, Any], ...], **more: Any) -> dict[str, Any]:
    """The mixer for masks, each the union of its parts, that share the heads."""
    return {"kind": "masked", "settings": {"patterns": patterns} | more}


ENTRIES: tuple[Variant, ...] = (
    Variant(
        name="sliding-window",
        title="Sliding window",
        family=_FAMILY,
        source="2004.05150",
        equation="M_i = softmax of s_ij over i - w < j <= i",
        config={"mixer": _masked((_window(8),))},
        bidirectional=True,
        state="2 H (w - 1) D + 1",
        peer="torch flex_attention",
        also=("local attention", "banded attention"),
    ),
    Variant(
        name="streaming-window",
        title="Sliding window and sinks (StreamingLLM)",
        family=_FAMILY,
        source="2309.17453",
        equation="M_i = softmax of s_ij over j < n and i - w < j <= i",
        config={"mixer": _masked((_window(8), _first(2)))},
        bidirectional=True,
        state="2 H (n + w - 1) D + 1",
        note="Trained with the mask. The paper puts it on a finished model and counts positions inside the cache; here "
        "positions are those of the text. On a finished model: `policy-streaming`.",
        also=("StreamingLLM", "Lambda-shaped mask"),
    ),
    Variant(
        name="capped-distance-window",
        title="Sliding window, sinks and a ceiling of distances (LM-Infinite)",
        family=_FAMILY,
        source="2308.16137",
        equation="M_i = softmax of s_ij - m_h min(i - j, w) over j < n and i - w < j <= i",
        config={"mixer": _masked((_window(8), _first(2)), slopes=(0.5,), slope_cap=8)},
        bidirectional=True,
        state="2 H (n + w - 1) D + 1",
        note="Trained with the mask, with the ceiling on a linear distance penalty (the paper's case of ALiBi; "
        "one slope for all heads here); a ceiling on rotary distances: `policy-lm-infinite`.",
        also=("LM-Infinite",),
    ),
    Variant(
        name="head-windows",
        title="A window of its own for every head",
        family=_FAMILY,
        source="2406.14909",
        equation="M_i of head h = softmax of s_ij over j < n and i - w_h < j <= i",
        config={"mixer": _masked((_window(4), _first(1)), (_window(12), _first(1)))},
        bidirectional=True,
        state="2 D sum_h(n + w_h - 1) + 1",
        note="Trained with fixed windows; the paper searches them on a finished model and lets them grow with the "
        "text: `policy-moa`.",
    ),
    Variant(
        name="sparse-strided",
        title="Sparse Transformer, strided",
        family=_FAMILY,
        source="1904.10509",
        equation="M_i = softmax of s_ij over i - l < j <= i (half of the heads), over (i - j) mod l = 0 (the others)",
        config={"mixer": _masked((_window(4),), ({"kind": "stride", "size": 4},))},
        bidirectional=True,
        state="H (l - 1) D + H T D + 1",
        note="One pattern for each half of the heads; the paper also takes them in turn by layers, or both at once.",
    ),
    Variant(
        name="sparse-fixed",
        title="Sparse Transformer, fixed",
        family=_FAMILY,
        source="1904.10509",
        equation="M_i = softmax of s_ij over floor(j/l) = floor(i/l) (half of the heads), j mod l >= l - c (others)",
        config={"mixer": _masked(({"kind": "block", "size": 4},), ({"kind": "block_ends", "size": 4, "count": 1},))},
        bidirectional=True,
        state="H D (T mod l + c floor(T / l)) + 1",
        note="A row also sees itself in the second half of the heads, which would else show early rows nothing.",
    ),
    Variant(
        name="dilated-window",
        title="Dilated sliding window",
        family=_FAMILY,
        source="2004.05150",
        equation="M_i = softmax of s_ij over i - j = 0, d, ..., (w - 1) d",
        config={"mixer": _masked((_window(4, dilation=3),))},
        bidirectional=True,
        state="2 H (w - 1) d D + 1",
        also=("dilated neighbourhood attention in one dimension",),
    ),
    Variant(
        name="longformer",
        title="Longformer: windows, dilated in some heads, and global tokens",
        family=_FAMILY,
        source="2004.05150",
        equation="M_i = softmax of s_ij over |i - j| in {0, d_h, ..., (w - 1) d_h}, j < g or i < g",
        config={"mixer": _masked((_window(4), _first(1)), (_window(4, dilation=2), _first(1)))},
        bidirectional=True,
        state="2 D sum_h(g + (w - 1) d_h) + 1",
        note="The first tokens are the global ones and use the same projections as others; the paper gives global "
        "tokens projections of their own. Read left to right they are sinks.",
    ),
    Variant(
        name="bigbird",
        title="BigBird: window, global and random blocks",
        family=_FAMILY,
        source="2007.14062",
        equation="M_i = softmax of s_ij over own and neighbouring blocks, the first block, r random blocks",
        config={
            "mixer": _masked(
                ({"kind": "block", "size": 4, "halo": 4}, _first(4), {"kind": "random", "size": 4, "count": 1})
            )
        },
        bidirectional=True,
        state="2 H T D + 1",
        note="Read left to right, random blocks are drawn from the earlier ones.",
        also=("BigBird-ITC",),
    ),
    Variant(
        name="longnet",
        title="LongNet: dilated segments mixed by their denominators",
        family=_FAMILY,
        source="2307.02486",
        equation="M_ij = n_ij exp(s_ij) / sum_l n_il exp(s_il), n_ij: dilated segments (w_k, r_k) with i and j",
        config={
            "mixer": _masked(
                (
                    {"kind": "dilated_segment", "size": 4, "dilation": 1},
                    {"kind": "dilated_segment", "size": 8, "dilation": 2},
                    {"kind": "dilated_segment", "size": 16, "dilation": 4},
                ),
                overlap="each",
            )
        },
        bidirectional=True,
        state="2 H D (tokens of the current segments) + 1",
        also=("dilated attention",),
    ),
    Variant(
        name="lsg",
        title="Local, sparse and global attention (LSG)",
        family=_FAMILY,
        source="2210.15497",
        equation="M_i = softmax of s_ij over own and neighbouring blocks, every f-th token beyond them, j < g",
        config={
            "mixer": _masked(
                ({"kind": "block", "size": 4, "halo": 4}, {"kind": "sampled", "size": 4, "halo": 4}, _first(1))
            )
        },
        bidirectional=True,
        state="2 H D (tokens within reach + g) + 1",
        note="The strided choice of sparse tokens; choices by norm, by hashing and by pooling are not here. The first "
        "tokens are global instead of added ones.",
    ),
    Variant(
        name="neighbourhood",
        title="Generalized neighbourhood attention",
        family=_FAMILY,
        source="2504.16922",
        equation="M_i = softmax of s_ij over e - w < j <= i, e = s floor(i/s) + s - 1",
        config={"mixer": _masked(({"kind": "neighbourhood", "window": 8, "stride": 2},))},
        bidirectional=True,
        state="2 H (w - 1) D + 1",
        note="One dimension, no dilation. Where the text ends inside a group of rows, the group's leader stays its "
        "last place, so that a longer text changes nothing; looking both ways it is the text's last token, as in "
        "the paper.",
        also=("neighbourhood attention (stride 1)", "strided and blocked local attention (stride = window)"),
    ),
    Variant(
        name="halonet",
        title="Blocked local attention with halos (HaloNet)",
        family=_FAMILY,
        source="2103.12731",
        equation="M_i = softmax of s_ij over the block of i and h tokens on either side",
        config={"mixer": _masked(({"kind": "block", "size": 4, "halo": 3},))},
        bidirectional=True,
        state="2 H (b + h - 1) D + 1",
        note="One dimension. Read left to right, only the halo before the block is seen.",
    ),
    Variant(
        name="shifted-groups",
        title="Shifted groups (S2 attention) with sinks (SinkLoRA)",
        family=_FAMILY,
        source="2406.05678",
        equation="M_i = softmax of s_ij over the group of i (begun g/2 earlier in half of the heads) and j < n",
        config={
            "mixer": _masked(
                ({"kind": "block", "size": 8}, _first(2)), ({"kind": "block", "size": 8, "shift": 4}, _first(2))
            )
        },
        bidirectional=True,
        state="2 D sum_h(n + (T + s_h) mod g) + 1",
        note="Trained whole instead of by LoRA. The half group at the start stays a group of its own: LongLoRA joins "
        "it with the end of the text.",
        also=("S2-Attn (LongLoRA, 2309.12307), without sinks", "SF-Attn"),
    ),
    Variant(
        name="masformer",
        title="Full attention in few layers, windows in the others (MASFormer)",
        family=_FAMILY,
        source="2310.12442",
        equation="M of layer 0 = softmax(s); of other layers softmax of s_ij over i - w < j <= i",
        config={"n_layers": 2, "mixer": ("softmax", _masked((_window(8),)))},
        bidirectional=True,
        state="2 H T D in full layers, 2 H (w - 1) D + 1 in others",
        note="Two layers: for more, name a mixer for each.",
        also=("hybrid of full and sliding-window layers",),
    ),
    Variant(
        name="staggered-blocks",
        title="Staggered blocks and global tokens (PEGASUS-X)",
        family=_FAMILY,
        source="2208.04347",
        equation="M_i = softmax of s_ij over the block of i (begun b/2 earlier in odd layers), j < g or i < g",
        config={"mixer": _masked(({"kind": "block", "size": 8, "stagger": True}, _first(1)))},
        bidirectional=True,
        state="2 H D (g + T mod b) + 1 in even layers, 2 H D (g + (T + b / 2) mod b) + 1 in others",
        note="The paper's global tokens are added, with embeddings of their own; here the first tokens are global. "
        "Made for an encoder.",
    ),
    Variant(
        name="tglobal",
        title="Window and block means (LongT5's TGlobal)",
        family=_FAMILY,
        source="2112.07916",
        equation="M_ij = P_ij + sum_b P_ib [j in b] / |b|, P = softmax over the window and the mean keys of blocks",
        config={"mixer": {"kind": "block-summaries", "settings": {"near": "window", "summary": "mean"}}},
        bidirectional=True,
        state="2 H D (floor(T / b) + w - 1 + T mod b)",
        note="The paper sums and normalises embeddings before projecting them; here keys and values are averaged. Read "
        "left to right, a row sees the means of the blocks before its own. Made for an encoder.",
        also=("transient global attention", "LSG with pooling"),
    ),
    Variant(
        name="lookhere",
        title="Heads that look to one side, with a distance penalty (LookHere)",
        family=_FAMILY,
        source="2405.13985",
        equation="M_i = softmax of s_ij - m_l m_h |i - j| over j <= i (half of the heads), over j >= i (the others)",
        config={
            "causal": False,
            "mixer": _masked(
                ({"kind": "look", "side": "left"},),
                ({"kind": "look", "side": "right"},),
                slopes=(0.5, 0.5),
                slope_by_layer=(1.5, 0.5),
            ),
        },
        causal=False,
        bidirectional=True,
        state="H T D + 1",
        note="One dimension: two directions for the paper's eight fields of view. Slopes as its code has them for the "
        "first group of directions.",
    ),
    Variant(
        name="fit",
        title="Groups and latents (FIT)",
        family=_FAMILY,
        source="2305.12689",
        equation="M_ij = P_ij + sum_b P_ib R_bj, R_b = softmax(l . k) in block b, P over own block and latents",
        config={
            "mixer": {"kind": "block-summaries", "settings": {"near": "block", "summary": "latents", "latents": 2}}
        },
        bidirectional=True,
        state="2 H D (latents floor(T / b) + T mod b)",
        note="The same operation as context-compression, with other blocks. "
        "Latents are read anew in each layer from keys and values, and rows see them in the softmax over their "
        "group; the paper keeps latents between layers of their own and adds what rows read from them.",
    ),
    Variant(
        name="tcnca",
        title="Convolution, then softmax in chunks (TCNCA)",
        family=_FAMILY,
        source="2312.05605",
        equation="M_i = softmax of s_ij over floor(j/c) = floor(i/c), j <= i, of convolved q, k, v",
        config={"conv": 4, "mixer": _masked(({"kind": "block", "size": 8},))},
        state="2 H D (T mod c) + 1 + 3 (conv - 1) H D",
        note="One short convolution in place of a stack of dilated ones, and no gates.",
        also=("MEGA-chunk without its moving average",),
    ),
    Variant(
        name="full-and-streaming-heads",
        title="Full heads and streaming heads",
        family=_FAMILY,
        source="2410.10819",
        equation="M = softmax(s) in half of the heads; in the others over j < n and i - w < j <= i",
        config={"mixer": _masked((_ALL,), (_window(4), _first(1)))},
        bidirectional=True,
        state="H T D + H (n + w - 1) D + 1",
        note="Trained with the split, the first half of the heads full. On a finished model: `policy-duo`.",
        also=("DuoAttention at use",),
    ),
    Variant(
        name="gated-streaming-heads",
        title="Heads between full and streaming, by a learned gate (DuoAttention)",
        family=_FAMILY,
        source="2410.10819",
        equation="M = a_h softmax(s) + (1 - a_h) softmax(s over j < n and i - w < j <= i)",
        config={"mixer": "gated-streaming"},
        note="a_h is a sigmoid and is trained with the weights; the paper clips it, penalises its sum, and trains it "
        "alone on a finished model.",
        also=("DuoAttention in training",),
    ),
    Variant(
        name="compensated-heads",
        title="Streaming heads with a compensation token (RazorAttention)",
        family=_FAMILY,
        source="2407.15891",
        equation="M_ij = exp(mean of s_il over dropped l) for dropped j, exp(s_ij) for kept j, over their sum",
        config={"mixer": "compensated"},
        state="2 D (full T + (H - full) (n + w)) + 1",
        note="Trained with a given split; a fixed window. On a finished model: `policy-razor`.",
        also=("RazorAttention",),
    ),
)
