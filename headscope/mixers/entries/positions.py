"""How tokens know where they are; presets with softmax, which go with other mixers as `DecoderConfig.position`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {}

_BIAS_NOTE = "A bias on scores: it goes with every mixer that makes its weights from scores."
_RANGE = 2048


def _rope(**settings: Any) -> Mapping[str, Any]:
    return {"position": {"kind": "rope", "settings": settings}}


ENTRIES: tuple[Variant, ...] = (
    Variant(
        name="nope",
        title="No position encoding",
        family="positions",
        source="2203.16634",
        equation="s_ij = q_i . k_j / sqrt(d): only the causal mask tells the order",
        config={"position": "none"},
        bidirectional=True,
        note="The same model as the variant softmax. Read both ways it cannot tell orders apart at all.",
        also=("NoPE causal language model",),
    ),
    Variant(
        name="learned-positions",
        title="Learned absolute positions",
        family="positions",
        source="1706.03762",
        equation="x_i = W_E[token] + W_pos[i]",
        config={"position": "learned"},
        bidirectional=True,
        note="Texts cannot be longer than n_ctx.",
        also=("APE",),
    ),
    Variant(
        name="sinusoidal-positions",
        title="Sinusoidal absolute positions",
        family="positions",
        source="1706.03762",
        equation="x_i = W_E[token] + (sin(i w_c), cos(i w_c)), w_c = 10000^(-2 c / d)",
        config={"position": "sinusoidal"},
        bidirectional=True,
    ),
    Variant(
        name="rope",
        title="Rotary position embedding",
        family="positions",
        source="2104.09864",
        equation="s_ij = (R_i q_i) . (R_j k_j) / sqrt(d), R_i turns pair p by i 10000^(-2 p / d)",
        config={"position": "rope"},
        bidirectional=True,
        peer="transformers Llama rotary embedding",
        note="A rotation: it goes with every mixer that reads queries and keys. Pairs are dimensions p and p + d / "
        "2, as in Llama; the setting fraction turns a part of them, as GPT-NeoX does.",
        also=("RoFormer",),
    ),
    Variant(
        name="rope-linear",
        title="RoPE with linear interpolation",
        family="positions",
        source="2306.15595",
        equation="RoPE with all frequencies divided by the factor by which texts are longer",
        config=_rope(interpolation="linear", factor=4.0),
        bidirectional=True,
        note="A decoder has it in training too. To change a model that was trained without, load its weights into this "
        "config: rotations have none.",
        also=("position interpolation", "Giraffe linear scaling"),
    ),
    Variant(
        name="rope-ntk",
        title="RoPE with an NTK-aware base",
        family="positions",
        source="2309.00071",
        equation="RoPE with base 10000 f^(d / (d - 2)): the lowest frequency is divided by f, the highest stays",
        config=_rope(interpolation="ntk", factor=4.0),
        bidirectional=True,
        note="The factor is fixed; the dynamic form, where it grows with the text, is not offered. See rope-linear for "
        "its use without training.",
    ),
    Variant(
        name="rope-power",
        title="RoPE with Giraffe's power basis",
        family="positions",
        source="2308.10882",
        equation="RoPE with frequency p of n multiplied by (1 - p / n)^k",
        config=_rope(interpolation="power", power=0.5),
        bidirectional=True,
        note="See rope-linear for its use without training.",
        also=("Giraffe power basis",),
    ),
    Variant(
        name="rope-truncated",
        title="RoPE with Giraffe's truncated basis",
        family="positions",
        source="2308.10882",
        equation="RoPE with periods up to the cutoff kept, up to 8 cutoffs set to 16 cutoffs, longer ones not turned",
        config=_rope(interpolation="truncated"),
        bidirectional=True,
        note="The bounds 8 and 16 are those of the authors' code; the cutoff is n_ctx unless set.",
        also=("Giraffe truncated basis",),
    ),
    Variant(
        name="clex",
        title="CLEX",
        family="positions",
        source="2310.16450",
        equation="d log w / dt = W_down silu(W_up (log w + log w_ntk(t))) + d log w_ntk / dt, t the scale of the text",
        status="left out",
        note="Its frequencies solve a differential equation that is trained on scales and positions drawn for each "
        "step, with texts stretched up to the longest scale. It needs that training, which the decoder's does not "
        "have; at the trained length its network does nothing. rope-ntk is its starting point, rope-linear its rival.",
    ),
    Variant(
        name="xpos",
        title="xPos",
        family="positions",
        source="2212.10554",
        equation="s_ij = sum_p zeta_p^((i - j) / b) (R_i q_i)_p . (R_j k_j)_p / sqrt(d)",
        config={"position": "xpos"},
        note="LeX also masks by blocks when it reads texts longer than those trained on: take a chunked or windowed "
        "mixer with this position for that. b is 512, as in the paper, so short texts hardly fade: lower scale_base "
        "for them.",
        also=("LeX (its position encoding)", "extrapolatable position embedding"),
    ),
    Variant(
        name="coca",
        title="Collinear constrained attention",
        family="positions",
        source="2309.08646",
        equation="s_ij = (R_i q_i) . (R_j (q_i * t_j)) / sqrt(d) = sum_p t_jp |q_ip|^2 cos((i - j) w_p) / sqrt(d), t "
        ">= 0",
        config={"position": "coca"},
        bidirectional=True,
        note="As the paper defines it, K being Q * T before rotation. The authors' code turns T alone and multiplies "
        "by the unturned q after that, which does not depend on the distance alone.",
    ),
    Variant(
        name="alibi",
        title="Attention with linear biases",
        family="positions",
        source="2108.12409",
        equation="s_ij = q_i . k_j / sqrt(d) - m_h |i - j|",
        config={"position": "alibi"},
        bidirectional=True,
        peer="transformers BLOOM slopes",
        note=_BIAS_NOTE,
    ),
    Variant(
        name="t5-bias",
        title="T5's bias by buckets of distances",
        family="positions",
        source="1910.10683",
        equation="s_ij = q_i . k_j / sqrt(d) + b_h[bucket(i - j)]",
        config={"position": "t5"},
        bidirectional=True,
        peer="transformers T5 buckets",
        note="Every layer has a table of its own, and scores keep their scale: T5 has one table for all layers and "
        "none.",
    ),
    Variant(
        name="kerple",
        title="Kerple, logarithmic",
        family="positions",
        source="2205.09921",
        equation="s_ij = q_i . k_j / sqrt(d) - r_1 log(1 + r_2 |i - j|), r of each head positive",
        config={"position": "kerple"},
        bidirectional=True,
        note=_BIAS_NOTE,
    ),
    Variant(
        name="kerple-power",
        title="Kerple, power",
        family="positions",
        source="2205.09921",
        equation="s_ij = q_i . k_j / sqrt(d) - r_1 |i - j|^r_2, 0 < r_2 <= 2",
        config={"position": {"kind": "kerple", "settings": {"kernel": "power"}}},
        bidirectional=True,
        note=_BIAS_NOTE,
    ),
    Variant(
        name="fire",
        title="FIRE",
        family="positions",
        source="2310.04418",
        equation="s_ij = q_i . k_j / sqrt(d) + f_h(psi(i - j) / psi(max(L, i))), psi(x) = log(c x + 1)",
        config={"position": "fire"},
        bidirectional=True,
        note="The network's last layer has no bias, which a softmax would not see; every layer of the decoder has a "
        "network of its own. Distances count both ways where rows see later tokens, which the paper does not treat.",
    ),
    Variant(
        name="shaw-relative",
        title="Relative position representations",
        family="positions",
        source="1803.02155",
        equation="s_ij = q_i . (k_j + a[clip(i - j)]) / sqrt(d)",
        config={"position": {"kind": "relative", "settings": {"largest": 16, "per_head": False}}},
        bidirectional=True,
        note="The paper's vectors for values are left out: they make z more than M applied to values.",
    ),
    Variant(
        name="music-transformer",
        title="Music Transformer relative attention",
        family="positions",
        source="1809.04281",
        equation="S = (Q K^T + skew(Q E_r^T)) / sqrt(d): s_ij = q_i . (k_j + e_h[i - j]) / sqrt(d)",
        config={"position": "relative"},
        bidirectional=True,
        note="The same operation as shaw-relative without clipping inside n_ctx and with vectors for each head.",
    ),
    Variant(
        name="xl-positions",
        title="Transformer-XL relative positions",
        family="positions",
        source="1901.02860",
        equation="s_ij = ((q_i + u) . k_j + (q_i + v) . W_R R_(i - j)) / sqrt(d)",
        config={"position": "transformer-xl"},
        bidirectional=True,
        note="The position encoding alone; the memory of earlier segments is a mixer's.",
        also=("content and position biases u, v",),
    ),
    Variant(
        name="cope",
        title="Contextual position encoding",
        family="positions",
        source="2405.18719",
        equation="s_ij = q_i . k_j / sqrt(d) + q_i . e[p_ij], p_ij = sum_(l = j ... i) sigmoid(q_i . k_l / sqrt(d))",
        config={"position": "cope"},
        note="Positions are counted up to n_ctx unless set; the paper takes 64 of texts of 1024.",
    ),
    Variant(
        name="randomised-positions",
        title="Randomised positional encodings",
        family="positions",
        source="2305.16843",
        equation="RoPE at positions that are a sorted random subset of 0 ... L - 1, drawn for every step",
        config={"position": {"kind": "rope", "randomised": _RANGE}},
        bidirectional=True,
        note="Any encoding that reads positions takes randomised. The paper draws in evaluation too; here a text "
        "gets the means of a draw for n_ctx tokens unless evaluation is set to drawn, so that it reads the same each "
        "time and as the beginning of longer texts, up to n_ctx.",
        also=("randomised RoPE",),
    ),
)
