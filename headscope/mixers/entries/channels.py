"""Recurrences and convolutions with a matrix for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.registry import Variant

_ROOM = "headscope.mixers"

MIXERS: Mapping[str, str] = {
    "mamba": f"{_ROOM}.selective:Mamba",
    "minimal-gated": f"{_ROOM}.channel_recurrence:MinimalGated",
    "rg-lru": f"{_ROOM}.channel_recurrence:RGLRU",
    "rwkv4": f"{_ROOM}.rwkv4:RWKV4",
    "h3": f"{_ROOM}.long_convolution:H3",
    "hyena": f"{_ROOM}.long_convolution:Hyena",
    "multi-hyena": f"{_ROOM}.long_convolution:MultiHyena",
    "laughing-hyena": f"{_ROOM}.long_convolution:LaughingHyena",
    "s4d": f"{_ROOM}.state_space:S4D",
    "hippo": f"{_ROOM}.hippo:Hippo",
    "cema": f"{_ROOM}.state_space:CEMA",
    "megalodon": f"{_ROOM}.megalodon:Megalodon",
    "gated-convolution": f"{_ROOM}.gated_convolution:GatedConvolution",
    "orchid": f"{_ROOM}.orchid:Orchid",
    "quasiseparable": f"{_ROOM}.quasiseparable:Quasiseparable",
    "attamba": f"{_ROOM}.attamba:Attamba",
    "swish-recurrence": f"{_ROOM}.swish_recurrence:SwishRecurrence",
}

_GATE = "The paper's output gate and output norm are settings of the decoder."


def _with(kind: str, **settings: Any) -> dict[str, Any]:
    return {"mixer": {"kind": kind, "settings": settings}}


def _channels(**given: Any) -> Variant:
    """A variant with the family's usual kind, rows and state."""
    usual: dict[str, Any] = {
        "family": "recurrent and state-space",
        "kind": "per_channel",
        "rows": "signed",
        "state": "H D N",
    }
    return Variant(**(usual | given))


_SELECTIVE = (
    _channels(
        name="mamba",
        title="Mamba (S6)",
        source="2312.00752",
        equation="M_ij = sum_n C_in B_jn dt_j exp(A_n sum_(j<t<=i) dt_t) in each channel, and D on the diagonal",
        config=_with("mamba") | {"conv": 4, "output_gate": "channel", "d_key": 16},
        state="H D N + (conv - 1) H (2 N + D)",
        peer="transformers mamba, mambapy",
        note="B and C are made for each head, as key and query, in the paper for all channels alike; C is scaled by "
        "1/sqrt(N). The convolution also runs over B and C and has no silu after it; the output gate is a sigmoid, in "
        "the paper a silu. Steps dt start between 0.01 and 0.3, for short texts; the paper's start from 0.001 to 0.1.",
        also=("S6", "Mamba-1", "selective state space"),
    ),
    _channels(
        name="mamba-plain",
        title="Mamba's state space without convolution and gate",
        source="2312.00752",
        equation="M_ij = sum_n C_in B_jn dt_j exp(A_n sum_(j<t<=i) dt_t) in each channel, and D on the diagonal",
        config=_with("mamba") | {"d_key": 16},
        peer="transformers mamba, mambapy",
        note="As mamba, to see what the state space does alone.",
    ),
    _channels(
        name="decimamba",
        title="DeciMamba",
        source="2406.14528",
        equation="as mamba, with dt_t = 0 where the mean of dt_t over channels is below that of the tokens so far",
        config=_with("mamba", decimate=1.0) | {"conv": 4, "output_gate": "channel", "d_key": 16},
        training="training-free",
        state="H D N + 2 + (conv - 1) H (2 N + D)",
        note="The paper keeps the tokens with the largest steps of the whole text and removes the others from later "
        "layers; an average of the tokens so far looks at no later one. A token below it still reads the state.",
    ),
    _channels(
        name="hydra",
        title="Hydra (quasiseparable)",
        source="2407.09941",
        equation="M_ij = c_i . b_j exp(-A sum_(j<t<=i) dt_t) dt_j for j < i, its mirror for j > i, d_i for j = i",
        config=_with("quasiseparable"),
        kind="recurrent",
        causal=False,
        bidirectional=True,
        state="H T (3 D + 3)",
        note="Products are divided by sqrt(d), which the paper does not. "
        "The two directions read a half of the key's channels each. The released code reads row i with the c of "
        "the row before it.",
        also=("bidirectional Mamba-2", "matrix mixer view"),
    ),
    _channels(
        name="attamba",
        title="Attamba",
        source="2411.17685",
        equation="M_ij = sum_c softmax_c(q_i . K_c / sqrt(d)) w_cj, K_c = sum_j w_cj k_j over the tokens of chunk c",
        config=_with("attamba"),
        kind="explicit",
        rows="substochastic",
        state="2 H D ceil(T / chunk) + 1",
        note="Chunks are compressed by one decay for each head and token, in the paper by a Mamba block.",
    ),
)

_GATED = (
    _channels(
        name="mingru",
        title="minGRU",
        source="2410.01201",
        equation="h_t = (1 - z_t) h_(t-1) + z_t v_t, z_t = sigmoid(W x_t)",
        config=_with("minimal-gated"),
        rows="substochastic",
        state="H D",
        peer="minGRU-pytorch, on values that its activation made",
        note="The plain form; the paper's log-space form puts v through a positive function first. The map of the gate "
        "here is that of what is kept, 1 - z: W with its sign turned.",
    ),
    _channels(
        name="minlstm",
        title="minLSTM",
        source="2410.01201",
        equation="h_t = f_t / (f_t + i_t) h_(t-1) + i_t / (f_t + i_t) v_t, f and i sigmoids of the token",
        config=_with("minimal-gated", gates="two"),
        rows="substochastic",
        state="H D",
        peer="minGRU-pytorch minLSTM, on values that its activation made",
        note="The plain form; the paper's log-space form puts v through a positive function first.",
    ),
    _channels(
        name="hgrn",
        title="HGRN",
        source="2311.04823",
        equation="h_t = f_t h_(t-1) + (1 - f_t) v_t, f_t = l + (1 - l) sigmoid(W x_t)",
        config=_with("minimal-gated", bound=True) | {"output_gate": "channel"},
        rows="substochastic",
        state="H D",
        peer="fla hgrn",
        note="Real numbers, in the paper complex ones with a learned turn. Values are as they come, in the paper silu, "
        "and its output is normalised before the gate. The lower bound l is learned in each layer "
        "on its own; the paper makes it grow with depth.",
    ),
    _channels(
        name="rg-lru",
        title="RG-LRU (Griffin, Hawk)",
        source="2402.19427",
        equation="h_t = a_t h_(t-1) + sqrt(1 - a_t^2) i_t v_t, log a_t = -8 softplus(L) r_t",
        config=_with("rg-lru") | {"conv": 4},
        rows="positive",
        state="H D + (conv - 1) H D",
        peer="transformers recurrent_gemma",
        note="What the first token writes is scaled as all others are, which the released layer leaves out. "
        "Gates are full maps of the stream, in the paper block-diagonal ones of the convolved values; the block's "
        "gelu branch is left to the decoder's output gate.",
        also=("Griffin's recurrent block", "Hawk"),
    ),
    _channels(
        name="swish-recurrence",
        title="Simple recurrence (SwishRNN)",
        source="2205.11588",
        equation="c_t = swish(c_(t-1) - v_t) + v_t, z_t = c_t + s",
        config=_with("swish-recurrence") | {"output_gate": "channel"},
        kind="jacobian",
        rows="positive",
        state="H D",
        note="The equation could not be checked against the paper's text. The paper adds the recurrence to blocks that "
        "also have softmax; here it is the mixer.",
        also=("simple recurrence in masked language models",),
    ),
    _channels(
        name="rwkv4",
        title="RWKV-4",
        source="2305.13048",
        equation="M_ij = sigmoid(r_i) softmax_j(k_j - w (i - 1 - j)), u + k_i at j = i, in each channel",
        config=_with("rwkv4") | {"conv": 2},
        rows="substochastic",
        state="3 H D + 3 (conv - 1) H D",
        peer="transformers rwkv",
        note="Token shift is the decoder's convolution of width 2. The receptance r is the query, and part of M.",
        also=("RWKV",),
    ),
    _channels(
        name="rwkv-perspectives",
        title="RWKV with several temporal perspectives",
        source="2402.02625",
        equation="z_i = sum_p a_ip z_i^p, each z^p an rwkv4 with a token shift of its own, a_i a softmax of the stream",
        config=_with("rwkv4", perspectives=3),
        rows="substochastic",
        state="(3 P + 2) H D",
        note="The paper runs one stream for each perspective and weights them before the unembedding; here they are "
        "weighted in each layer. The receptance is not shifted.",
    ),
)

_FILTERS = (
    _channels(
        name="h3",
        title="H3",
        source="2212.14052",
        equation="M_ij = q_i h_(i-j) sum_w f_w k_(j-w) in each channel, h a diagonal state space",
        config=_with("h3"),
        state="H D (2 N + shift - 1)",
        note="Heads of width 1 in the paper's words: keys and values multiply channel by channel. Steps start between "
        "0.02 and 0.5, for short texts.",
        also=("Hungry Hungry Hippos",),
    ),
    _channels(
        name="hyena",
        title="Hyena (order 2)",
        source="2302.10866",
        equation="M = D_q T_h2 D_k T_h1 in each channel, filters h made by a network of the lag",
        config=_with("hyena") | {"conv": 3},
        state="2 H T D + 3 (conv - 1) H D",
        note="Without the skip of each convolution: the filter's lag 0 takes its part.",
    ),
    _channels(
        name="hyena-released",
        title="Hyena (order 2, as in the released code)",
        source="2302.10866",
        equation="M_ij = q_i h_(i-j) k_j in each channel, h made by a network of the lag",
        config=_with("hyena", first_filter=False) | {"conv": 3},
        state="2 H T D + 3 (conv - 1) H D",
        note="The code starts with a gate, and has one filter where the paper's definition has two.",
    ),
    _channels(
        name="multi-hyena",
        title="Multi-head Hyena",
        source="2310.18780",
        equation="M_ij = (q_i . k_j) h_(i-j), one filter h for each head, made by a network of the lag",
        note="Products are divided by sqrt(d), which the paper does not.",
        config=_with("multi-hyena") | {"conv": 3},
        kind="linear",
        state="2 H T D + 3 (conv - 1) H D",
    ),
    _channels(
        name="laughing-hyena",
        title="Laughing Hyena (modal form)",
        source="2310.18780",
        equation="M_ij = (q_i . k_j) Re sum_n R_n l_n^(i-j)",
        config=_with("laughing-hyena") | {"conv": 3},
        kind="recurrent",
        state="2 H N D D + 3 (conv - 1) H D",
        note="Products are divided by sqrt(d), which the paper does not. "
        "Trained in its modal form; the paper fits it to the filters of a trained multi-head Hyena.",
    ),
    _channels(
        name="s4d",
        title="S4D",
        source="2206.11893",
        equation="M_ij = 2 Re sum_n C_n exp((i-j) dt A_n) (exp(dt A_n) - 1) / A_n, and D on the diagonal",
        config=_with("s4d"),
        state="2 H D N",
        note=_GATE,
        also=("S4D-Lin",),
    ),
    _channels(
        name="s4",
        title="S4",
        source="2111.00396",
        equation="M_ij = C A^(i-j) B, A and B of HiPPO-LegS by the bilinear rule, and D on the diagonal",
        config=_with("hippo"),
        state="H D N",
        note="C, D and the step are learned; A and B stay those of HiPPO-LegS, which the paper trains too.",
        also=("HiPPO-LegS",),
    ),
    _channels(
        name="lmu",
        title="Legendre memory unit (LMUFormer)",
        source="2402.04882",
        equation="M_ij = C A^(i-j) B, A and B of Legendre polynomials over a sliding window, held over each token",
        config=_with("hippo", measure="legt"),
        state="H D N",
        note="The memory and a linear reading of it, for each channel; LMUFormer's convolutions and hidden layer are "
        "left out.",
        also=("LMUFormer", "HiPPO-LegT"),
    ),
    _channels(
        name="cema",
        title="Complex exponential moving average",
        source="2404.08801",
        equation="h_t = a e^(i th) v_t + (1 - a d) e^(i th) h_(t-1), z_t = Re(eta . h_t) + w v_t",
        config=_with("cema"),
        state="2 H D N",
        note="Megalodon's moving average alone, as a mixer.",
    ),
    _channels(
        name="megalodon",
        title="Megalodon",
        source="2404.08801",
        equation="M = softmax(q_i . k_j) within chunks, q and k affine in unit(CEMA(W x))",
        config=_with("megalodon") | {"output_gate": "channel"},
        kind="explicit",
        rows="stochastic",
        state="H (2 chunk D + 2 N D)",
        note="The moving average runs over the projected stream, in the paper over the stream itself; timestep "
        "normalisation and rotary positions are left out.",
    ),
    _channels(
        name="mambaout",
        title="MambaOut gated convolution",
        source="2405.07992",
        equation="M_ij = gelu(W x_i) f_(i-j) in each channel, 7 taps f",
        config=_with("gated-convolution"),
        state="6 H D",
        note="The paper's images are convolved both ways in two dimensions; here causally along the text.",
        also=("gated short convolution", "gated CNN"),
    ),
    _channels(
        name="base-conv",
        title="BaseConv",
        source="2312.04927",
        equation="M_ij = (W x_i + b) f_(i-j) in each channel, as many taps f as the longest text has tokens",
        config=_with("gated-convolution", width=None, gate="identity"),
        state="(T_max - 1) H D",
        note="Without the bias that the paper adds to the convolution.",
    ),
    _channels(
        name="extractor",
        title="Extractor",
        source="2308.07661",
        equation="M_ij = (W x_i + b) f_(i-j) / sqrt(i) in each channel",
        config=_with("gated-convolution", width=None, gate="identity", length_scale=True),
        state="(T_max - 1) H D + 1",
        note="A weight for each lag and channel, and the adjusting gate. The paper's largest form (SHE) has a whole "
        "matrix for each lag, which also mixes channels; the smaller ones (HE, WE, ME) save weights in ways that could "
        "not be confirmed, and are not told apart here.",
        also=("SHE", "HE", "WE", "ME"),
    ),
    _channels(
        name="orchid",
        title="Orchid",
        source="2402.18508",
        equation="M_ij = h_((i-j) mod T), h_l = sum_t q_t k_(t+l) / T, in each channel",
        config=_with("orchid") | {"output_gate": "channel"},
        causal=False,
        bidirectional=True,
        state="3 H T D",
        note="The cross-correlation filter, divided by the length; the paper convolves its two parts first, which is "
        "left out.",
    ),
)


def _left_out(name: str, title: str, source: str, equation: str, note: str) -> Variant:
    return _channels(name=name, title=title, source=source, equation=equation, note=note, status="left out")


_LEFT_OUT = (
    _left_out(
        "spikegpt",
        "SpikeGPT",
        "2302.13939",
        "z = spike(rwkv4), a spike where a leaky sum passes a threshold",
        "Needs a surrogate gradient: its spikes are steps, so that the gradient it trains with is not that of what it "
        "computes, and M has none. Without spikes it is rwkv4.",
    ),
    _left_out(
        "rrwkv",
        "RRWKV",
        "2306.05176",
        "rwkv4 with mediums inserted in the text that look back at all earlier ones",
        "Needs extra tokens in the text and a loss around them, and no equations or code of it could be had to check.",
    ),
    _left_out(
        "mcsd",
        "MCSD",
        "2406.12230",
        "slope and decay sections of many channels, fused by products",
        "Needs the equations of its slope section, which could not be had. Its decay section is a fixed decay of each "
        "channel, as in rwkv4 and cema.",
    ),
)

ENTRIES: tuple[Variant, ...] = (*_SELECTIVE, *_GATED, *_FILTERS, *_LEFT_OUT)
