"""Fourier transforms, pooling and hierarchies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.registry import Variant

_ROOM = "headscope.mixers"

MIXERS: Mapping[str, str] = {
    "mean-pool": f"{_ROOM}.static_mixing:MeanPool",
    "fourier-mixing": f"{_ROOM}.static_mixing:FourierMixing",
    "global-filter": f"{_ROOM}.static_mixing:GlobalFilter",
    "coefficient-attention": f"{_ROOM}.coefficient_attention:CoefficientAttention",
    "funnel": f"{_ROOM}.coefficient_attention:Funnel",
    "hourglass": f"{_ROOM}.shortened:Hourglass",
    "token-pooling": f"{_ROOM}.shortened:TokenPooling",
    "ponet": f"{_ROOM}.pooling_network:PoNet",
    "convolution-ffn": f"{_ROOM}.pooling_network:ConvolutionFFN",
}


def _with(kind: str, **settings: Any) -> dict[str, Any]:
    return {"mixer": {"kind": kind, "settings": settings}}


def _pooling(**given: Any) -> Variant:
    """A variant of the family."""
    usual: dict[str, Any] = {"family": "convolution, Fourier, pooling"}
    return Variant(**(usual | given))


def _both_ways(**given: Any) -> Variant:
    """One that reads a text as a whole."""
    usual: dict[str, Any] = {"causal": False, "bidirectional": True, "state": "3 H T D"}
    return _pooling(**(usual | given))


_FIXED = (
    _pooling(
        name="mean-pool",
        title="Mean pooling (control)",
        source="2111.11418",
        equation="M_ij = 1 / n_i over the n_i tokens that row i sees",
        config=_with("mean-pool"),
        kind="static",
        bidirectional=True,
        state="H D + 1",
        note="A control that looks at no token. PoolFormer, the source, pools over a small window of an image.",
        also=("uniform attention", "average pooling"),
    ),
    _both_ways(
        name="fnet",
        title="FNet",
        source="2105.03824",
        equation="y = Re(F_T x F_d): M = cos(2 pi i j / T) / sqrt(T) in even heads, -sin in odd heads",
        config=_with("fourier-mixing"),
        kind="static",
        rows="signed",
        state="H T D",
        peer="transformers fnet",
        note="Divided by sqrt(T), which the paper does not. "
        "W_V and W_O are learned; with those of the transform over channels, two heads are the paper's layer.",
    ),
    _both_ways(
        name="global-filter",
        title="Global filter (GFNet)",
        source="2107.00645",
        equation="z = F^-1 (G * F v): M_ij = g_((i-j) mod T) in each channel, G learned for each frequency",
        config=_with("global-filter"),
        kind="per_channel",
        rows="signed",
        state="H T D",
        note="Along the text, in the paper over an image; G is interpolated between frequencies of the longest text.",
        also=("GFNet", "spectral gating"),
    ),
    _both_ways(
        name="spectformer",
        title="SpectFormer",
        source="2304.06446",
        equation="layers of z = F^-1 (G * F v), then layers of softmax",
        config={"mixer": [{"kind": "global-filter"}, {"kind": "softmax"}]},
        state="H T D in spectral layers, 2 H T D in others",
        note="One spectral and one softmax layer.",
    ),
)

_SHORTENED = (
    _both_ways(
        name="fourier-transformer",
        title="Fourier Transformer (cosine transform)",
        source="2305.15099",
        equation="M = W^T softmax(W q (W k)^T / sqrt(d)) W, W the lowest half of a cosine transform along the text",
        config=_with("coefficient-attention"),
        rows="signed",
        note="The paper shortens the stream itself between layers and lengthens it at the end; here a layer does both.",
        also=("DCT downsampling",),
    ),
    _both_ways(
        name="wavspa",
        title="WavSpA (Haar wavelets)",
        source="2210.01989",
        equation="M = W^T softmax(W q (W k)^T / sqrt(d)) W, W a wavelet transform along the text",
        config=_with("coefficient-attention", transform="haar", keep=1.0),
        rows="signed",
        note="With Haar's wavelet; the paper has others, and learned ones.",
    ),
    _both_ways(
        name="funnel",
        title="Funnel-Transformer",
        source="2006.03236",
        equation="M_ij = softmax_j(mean of the queries of row i's block . k_j / sqrt(d))",
        config=_with("funnel"),
        note="One layer of pooled queries whose rows are handed back to the tokens; the paper keeps the stream short "
        "for several layers.",
    ),
    _pooling(
        name="hourglass",
        title="Hourglass",
        source="2110.13711",
        equation="M = U softmax(P q (P k)^T / sqrt(d)) P, P means of blocks shifted back by stride - 1, U repeats them",
        config=_with("hourglass"),
        rows="substochastic",
        state="2 H D ceil(T / stride) + (3 stride - 2) H D + 1",
        note="Each layer shortens and lengthens; in the paper layers at full length lie around those at short length. "
        "Lengthening repeats a block, one of the paper's three ways.",
        also=("hierarchical transformer",),
    ),
    _pooling(
        name="dynamic-token-pooling",
        title="Dynamic token pooling",
        source="2211.09761",
        equation="M = U softmax(P q (P k)^T / sqrt(d) + log p) P, P means of segments that end where p_t > 1/2",
        config=_with("token-pooling"),
        rows="substochastic",
        state="T (3 H D + 1)",
        note="The predictor of ends is trained through log p, which is added to the score of a segment; in the paper "
        "through a relaxed Bernoulli sample, a tokenizer or entropy.",
    ),
)

_NONLINEAR = (
    _both_ways(
        name="ponet",
        title="PoNet",
        source="2110.02442",
        equation="z_i = g * o_i + max(segment of i) * o_i + max(window around i), g = softmax(mean(q) . k) v",
        config=_with("ponet"),
        kind="jacobian",
        rows="positive",
        state="4 H T D",
        note="The three pools share one map of values, in the paper they have one each. Segments are of one length.",
    ),
    _pooling(
        name="metamixer",
        title="MetaMixer (FFN-like attention)",
        source="2406.02021",
        equation="z = f2 conv gelu(f1 conv v), 7 taps in each channel",
        config=_with("convolution-ffn"),
        kind="jacobian",
        rows="positive",
        state="12 H D",
        note="Causal along the text, in the paper over images.",
        also=("FFNified attention", "FFNet"),
    ),
    _pooling(
        name="rcmha",
        title="RCMHA",
        source="2308.03429",
        equation="softmax(conv(q) . conv(k) + relative positions) conv(v), depthwise convolutions of width 3",
        config={"mixer": "softmax", "conv": 3, "position": "transformer-xl"},
        state="2 H T D + 3 (conv - 1) H D",
        note="Settings of the decoder.",
        also=("relative convolutional multi-head attention",),
    ),
)

ENTRIES: tuple[Variant, ...] = (*_FIXED, *_SHORTENED, *_NONLINEAR)
