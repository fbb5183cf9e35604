"""Memories, landmarks and segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.kinds import Family
from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {
    "landmark": "headscope.mixers.landmarks:Landmark",
    "transformer-xl": "headscope.mixers.transformer_xl:TransformerXL",
    "infini": "headscope.mixers.infini:Infini",
    "segment-memory": "headscope.mixers.segment_memory:SegmentMemory",
    "retrieved-memory": "headscope.mixers.retrieved_memory:RetrievedMemory",
    "pointer": "headscope.mixers.pointer:Pointer",
}

_FAMILY: Family = "memory and segments"
_SLOTS = "M_ij = P_ij + sum_m P_im C_mj, P = softmax over own segment and slots; then C <- A [C; segment]"
_HERE = (
    "The recurrence runs within each layer, over keys and values of its heads, all segments in one pass; gradients run "
    "through all of them. "
)


def _slots(**settings: Any) -> dict[str, Any]:
    return {"mixer": {"kind": "segment-memory", "settings": settings}}


ENTRIES: tuple[Variant, ...] = (
    Variant(
        name="landmark",
        title="Landmark attention",
        family=_FAMILY,
        source="2305.16300",
        equation="M_ij = p(j | own block and landmarks), or p(landmark of b) p(j | b) for j in an earlier block b",
        config={"mixer": "landmark"},
        note="The last token of a block is its landmark; the paper adds one after each block, whose value is not read. "
        "No blocks are dropped.",
        also=("grouped softmax",),
    ),
    Variant(
        name="transformer-xl",
        title="Transformer-XL",
        family=_FAMILY,
        source="1901.02860",
        equation="M_i = softmax of (q_i.k_j + q_i.W_R r_{i-j} + u.k_j + v.W_R r_{i-j}) / sqrt(d), own and last segment",
        config={"mixer": "transformer-xl"},
        state="2 H (segment + memory - 1) D + 1",
        note="The recurrence over segments is a mask: a text is read in one pass, a row sees its segment and a memory "
        "before it, and gradients run into that memory.",
    ),
    Variant(
        name="segment-window",
        title="Segments that reuse the keys of the one before (folded context)",
        family=_FAMILY,
        source="2405.04620",
        equation="M_i = softmax of s_ij over the segment of i and the one before, j <= i",
        config={
            "mixer": {"kind": "masked", "settings": {"patterns": (({"kind": "block", "size": 8, "halo": 8},),)}},
        },
        bidirectional=True,
        state="2 H (2 b - 1) D + 1",
        note="The same operation as halonet, with other blocks. Our reading of its first version, which leaves details "
        "open: states of the window before, at the same depth, are keys too. The condensed buffers of later versions "
        "are not here.",
        also=("folded context condensation", "segment recurrence without relative positions"),
    ),
    Variant(
        name="recurrent-memory",
        title="Recurrent memory (RMT)",
        family=_FAMILY,
        source="2207.06881",
        equation=_SLOTS + ", A = softmax(learned queries . [slots; segment])",
        config=_slots(query="learned"),
        state="2 H D (slots + segment - 1)",
        note=_HERE + "The paper's memory tokens pass through all layers before the next segment reads them.",
        also=("Recurrent Memory Transformer",),
    ),
    Variant(
        name="feedback-memory",
        title="Feedback attention memory (TransformerFAM)",
        family=_FAMILY,
        source="2404.09173",
        equation=_SLOTS + ", A = softmax(queries from slots . [slots; segment]); rows also see the last segment",
        config=_slots(query="memory", past=1),
        state="2 H D (slots + 2 segment - 1)",
        note=_HERE + "A query of a slot is a learned map of its key, for the paper's projection of the fed-back "
        "activation; one segment before the row's own is seen.",
        also=("TransformerFAM", "FAM"),
    ),
    Variant(
        name="memformer",
        title="Memory slots written apart (Memformer)",
        family=_FAMILY,
        source="2010.06891",
        equation=_SLOTS + ", A_m = softmax(query from slot m . [slot m; segment])",
        config=_slots(query="memory", apart=True),
        state="2 H D (slots + segment - 1)",
        note=_HERE + "Slots are read in the softmax over the segment instead of by a cross attention of their own, and "
        "are not normalised with a bias (the paper's forgetting).",
    ),
    Variant(
        name="block-recurrent",
        title="Block-recurrent slots with a gate",
        family=_FAMILY,
        source="2203.07852",
        equation=_SLOTS + ", times 1 - g, plus g C; rows also see the last segment",
        config=_slots(query="learned", past=1, gate=True),
        state="2 H D (slots + 2 segment - 1)",
        note=_HERE + "The paper's fixed gate, one number for each slot and not for each channel; rows read tokens and "
        "slots in one softmax; a row sees its block and the whole one before instead of a window.",
        also=("Block-Recurrent Transformer",),
    ),
    Variant(
        name="stateful-memory",
        title="Stateful memory with a residual gate",
        family=_FAMILY,
        source="2209.07634",
        equation=_SLOTS + ", A from queries of the slots; times 1 - g, plus g C",
        config=_slots(query="memory", gate=True),
        state="2 H D (slots + segment - 1)",
        note=_HERE + "The paper adds it to the encoder of a finished encoder-decoder, with a gate that reads the slot; "
        "here a decoder, with a learned one.",
        also=("stateful memory-augmented transformer", "MemBART"),
    ),
    Variant(
        name="infini",
        title="Infini-attention",
        family=_FAMILY,
        source="2404.07143",
        equation="M = g phi(q) . phi(k_j) / sum_l phi(q) . phi(k_l) over earlier segments + (1 - g) local softmax",
        config={"mixer": "infini"},
        rows="substochastic",
        state="H D (D + 1) + 2 H (segment - 1) D",
        note="Gradients run through the memory. It reads the queries and keys of the softmax, positions included.",
    ),
    Variant(
        name="infini-delta",
        title="Infini-attention with the delta rule",
        family=_FAMILY,
        source="2404.07143",
        equation="z = g phi(q) S / phi(q).n + (1 - g) local softmax; S += phi(K)^T (V - phi(K) S / phi(K) n)",
        config={"mixer": {"kind": "infini", "settings": {"delta": True}}},
        kind="recurrent",
        rows="signed",
        state="H D (D + 1) + 2 H (segment - 1) D",
        note="As `infini`.",
    ),
    Variant(
        name="context-compression",
        title="Compressed segments (recurrent context compression)",
        family=_FAMILY,
        source="2406.06110",
        equation="M_ij = P_ij + sum_b P_ib R_bj, R_b = softmax(l . k) in block b, P over own block and summaries",
        config={
            "mixer": {
                "kind": "block-summaries",
                "settings": {"near": "block", "block": 8, "summary": "latents", "latents": 2},
            }
        },
        bidirectional=True,
        state="2 H D (latents floor(T / b) + T mod b)",
        note="Learned queries read each finished segment in place of a separate encoder.",
        also=("RCC",),
    ),
    Variant(
        name="knn-memory",
        title="Window and retrieved tokens in gated shares (Memorizing Transformers)",
        family=_FAMILY,
        source="2203.08913",
        equation="M = (1 - g) softmax(s over i - w < j <= i) + g softmax(s over the k best of j <= i - w)",
        config={"mixer": "retrieved-memory"},
        note="The memory is the earlier text itself, searched exactly, and gradients run into it; in the paper it is "
        "of earlier segments, in one layer, approximate and without gradients.",
        also=("Memorizing Transformer", "kNN attention over a memory"),
    ),
    Variant(
        name="unlimiformer",
        title="The best keys of each head (Unlimiformer)",
        family=_FAMILY,
        source="2305.01625",
        equation="M_i = softmax of s_ij over j = i and the k best of j < i",
        config={
            "mixer": {"kind": "retrieved-memory", "settings": {"window": 1, "count": 6, "together": "softmax"}},
        },
        note="The paper retrieves for the cross attention of a finished encoder-decoder; here self attention to "
        "earlier tokens, trained, with the row's own token always seen.",
    ),
    Variant(
        name="pointer",
        title="Pointer networks",
        family=_FAMILY,
        source="1506.03134",
        equation="M_i = softmax_j(u . tanh(W_1 k_j + W_2 q_i))",
        config={"mixer": "pointer"},
        bidirectional=True,
        note="M is the pointer; the paper points at what an encoder read and gives the weights out as they are.",
        also=("additive attention", "Bahdanau attention"),
    ),
    Variant(
        name="memoria",
        title="Hebbian memory on three levels (Memoria)",
        family=_FAMILY,
        source="2310.03052",
        equation="engrams found by how often they fired together, P(e_i | e_j) = n_ij / n_j; read by cross attention",
        status="left out",
        note="What is remembered and forgotten is decided by counts of engrams firing together and by lifespans, which "
        "no gradient reaches and which run on from text to text: it needs a memory that outlives one pass of a model.",
    ),
)
