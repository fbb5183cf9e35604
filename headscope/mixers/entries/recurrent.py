"""Recurrences with a matrix for each head as their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {
    "delta": "headscope.mixers.delta:Delta",
    "gated-linear": "headscope.mixers.gated_linear:GatedLinear",
    "mamba2": "headscope.mixers.gated_linear:Mamba2",
    "rwkv6": "headscope.mixers.gated_linear:RWKV6",
    "hgrn2": "headscope.mixers.gated_linear:HGRN2",
    "longhorn": "headscope.mixers.longhorn:Longhorn",
    "rwkv7": "headscope.mixers.rwkv7:RWKV7",
    "mlstm": "headscope.mixers.mlstm:MLSTM",
    "mesa": "headscope.mixers.mesa:Mesa",
    "log-linear": "headscope.mixers.log_linear:LogLinear",
    "path": "headscope.mixers.path:Path",
    "delta-former": "headscope.mixers.delta_former:DeltaFormer",
    "slots": "headscope.mixers.slots:Slots",
    "delta-product": "headscope.mixers.householder:DeltaProduct",
    "titans": "headscope.mixers.titans:Titans",
    "titans-gate": "headscope.mixers.titans:TitansGate",
    "titans-context": "headscope.mixers.titans_context:TitansContext",
    "ttt": "headscope.mixers.titans:TTT",
    "fast-weights": "headscope.mixers.fast_weights:FastWeights",
    "lstm": "headscope.mixers.lstm:LSTM",
    "slstm": "headscope.mixers.lstm:SLSTM",
    "bidirectional-lstm": "headscope.mixers.lstm:BidirectionalLSTM",
}

_UNIT = "Queries and keys are silu, then unit vectors, times 1/sqrt(d)."
_KEYS = "Keys and queries are unit vectors, without the paper's silu and convolution; values are as they come."
_TURNS = "Two layers: for more, name a mixer for each."
_CONV = "The paper's short convolutions, output gate and output norm are settings of the decoder."


def _with(kind: str, **settings: Any) -> Mapping[str, Any]:
    return {"mixer": {"kind": kind, "settings": settings}}


def _layers(*mixers: Any, **more: Any) -> Mapping[str, Any]:
    return {**more, "mixer": tuple({"kind": one} if isinstance(one, str) else one for one in mixers)}


def _recurrent(**given: Any) -> Variant:
    """A variant with the family's usual kind, rows and state."""
    usual: dict[str, Any] = {
        "family": "recurrent and state-space",
        "kind": "recurrent",
        "rows": "signed",
        "state": "H D D",
    }
    return Variant(**(usual | given))


def _jacobian(**given: Any) -> Variant:
    """A variant that is not linear in its values."""
    return _recurrent(**({"kind": "jacobian", "rows": "positive"} | given))


_DELTA = (
    _recurrent(
        name="delta",
        title="DeltaNet",
        source="2406.06484",
        equation="S_t = (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T, z_t = S_t^T q_t / sqrt(d)",
        config=_with("delta"),
        peer="fla delta_rule",
        note=f"{_UNIT} {_CONV}",
        also=("delta rule linear attention", "fast weight programmer with the delta rule"),
    ),
    _recurrent(
        name="delta-negative",
        title="DeltaNet with negative eigenvalues",
        source="2411.12537",
        equation="S_t = (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T, 0 < b_t < 2",
        config=_with("delta", strength=2),
        peer="fla delta_rule",
        note=f"{_UNIT} {_CONV}",
    ),
    _recurrent(
        name="gated-delta",
        title="Gated DeltaNet",
        source="2412.06464",
        equation="S_t = a_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T",
        config=_with("delta", decay="head"),
        peer="fla gated_delta_rule",
        note=f"{_UNIT} {_CONV}",
        also=("GDN",),
    ),
    _recurrent(
        name="kda",
        title="Kimi delta attention",
        source="2510.26692",
        equation="S_t = (I - b_t k_t k_t^T) diag(a_t) S_(t-1) + b_t k_t v_t^T",
        config=_with("delta", decay="channel"),
        peer="fla kda",
        note=f"{_UNIT} The decay's map is one matrix, the paper's a product of two thin ones. {_CONV}",
    ),
    _recurrent(
        name="comba",
        title="Comba",
        source="2506.02475",
        equation="S_t = (a_t - b_t k_t p_t^T) S_(t-1) + b_t k_t v_t^T, z_t = S_t^T (q_t - d p_t), p_t = sigmoid(c) k_t",
        config=_with("delta", decay="head", closed_loop=True),
        peer="fla comba (chunk form)",
        note=f"{_UNIT} {_CONV}",
    ),
)

_DECAY = (
    _recurrent(
        name="mamba2",
        title="Mamba-2 (SSD)",
        source="2405.21060",
        equation="M_ij = C_i . B_j / sqrt(d) exp(-A sum_(j<t<=i) dt_t) dt_j, and D on the diagonal",
        config=_with("mamba2"),
        peer="fla simple_gla",
        note=f"C is divided by sqrt(d), not so in the paper. {_CONV}",
        also=("SSD",),
    ),
    _recurrent(
        name="gla",
        title="Gated linear attention",
        source="2312.06635",
        equation="M_ij = sum_c q_ic k_jc / sqrt(d) prod_(j<t<=i) a_tc, log a_t = logsigmoid(W x_t + b) / 16",
        config=_with("gated-linear"),
        peer="fla gla",
        note=f"The decay's map is one matrix, the paper's a product of two thin ones. {_CONV}",
    ),
    _recurrent(
        name="gated-linear-scalar",
        title="Gated linear attention with one decay for each head",
        source="2312.06635",
        equation="M_ij = q_i . k_j / sqrt(d) prod_(j<t<=i) a_t, log a_t = logsigmoid(w . x_t + b) / 16",
        config=_with("gated-linear", decay="head"),
        peer="fla simple_gla",
        also=("simple GLA", "gated retention"),
    ),
    _recurrent(
        name="rwkv5",
        title="RWKV-5 (Eagle)",
        source="2404.05892",
        equation="z_t = (S_(t-1) + diag(u) k_t v_t^T)^T r_t, S_t = diag(w) S_(t-1) + k_t v_t^T",
        config=_with("rwkv6", dynamic=False),
        note="The convolution is not switched on here. "
        "Token shift is the decoder's short convolution of width 2. Receptances are divided by sqrt(d).",
        also=("Eagle",),
    ),
    _recurrent(
        name="rwkv6",
        title="RWKV-6 (Finch)",
        source="2404.05892",
        equation="z_t = (S_(t-1) + diag(u) k_t v_t^T)^T r_t, S_t = diag(w_t) S_(t-1) + k_t v_t^T",
        config=_with("rwkv6"),
        peer="fla gla (without the bonus)",
        note="The convolution is not switched on here. "
        "Token shift is the decoder's short convolution of width 2; the decay's map is one matrix, not low-rank. "
        "Receptances are divided by sqrt(d).",
        also=("Finch",),
    ),
    _recurrent(
        name="hgrn2",
        title="HGRN2",
        source="2404.07904",
        equation="S_t = diag(f_t) S_(t-1) + (1 - f_t) v_t^T, f_t = l + (1 - l) sigmoid(k_t)",
        config=_with("hgrn2"),
        peer="fla gla",
        note="The lower bound l is learned in each layer on its own, in the paper across layers. Queries are silu, "
        "divided by sqrt(d).",
    ),
    _recurrent(
        name="longhorn",
        title="Longhorn",
        source="2407.14207",
        equation="S_t = (1 - e_t k_t^2) * S_(t-1) + e_t k_t v_t^T, e_t = b_t / (1 + b_t |k_t|^2)",
        config={**_with("longhorn"), "d_key": 16},
        kind="per_channel",
        state="H D N",
        note=f"Without the D skip. Queries are divided by sqrt(d). {_CONV}",
    ),
    _recurrent(
        name="longhorn-head",
        title="Longhorn with one step size for each head",
        source="2407.14207",
        equation="M_ij = sum_c q_ic e_j k_jc prod_(j<t<=i) (1 - e_t k_tc^2)",
        config=_with("longhorn", steps="head"),
        note="The paper has a step size for each channel of the value; one for each head leaves one matrix per head. "
        "Queries are divided by sqrt(d).",
    ),
    _recurrent(
        name="rwkv7",
        title="RWKV-7 (Goose)",
        source="2503.14456",
        equation="S_t = (diag(w_t) - (a_t * g_t) g_t^T) S_(t-1) + k_t v_t^T, z_t = S_t^T r_t + (r_t . (u * k_t)) v_t",
        config=_with("rwkv7"),
        peer="fla generalized_delta_rule dplr",
        note="The convolution is not switched on here. "
        "Gates are full matrices, not low-rank; token shift is the decoder's convolution. The bonus comes before "
        "an output norm, in the paper after it. Receptances are divided by sqrt(d).",
        also=("Goose", "DPLR"),
    ),
    _recurrent(
        name="mlstm",
        title="xLSTM's mLSTM",
        source="2405.04517",
        equation="M_ij = s_ij exp(i_j) prod_(j<t<=i) f_t / max(|sum_l s_il exp(i_l) prod f|, 1)",
        config=_with("mlstm"),
        state="H (D (D + 1) + 1)",
        note="Its output gate is the decoder's.",
    ),
)

_SOLVED = (
    _recurrent(
        name="mesa",
        title="MesaNet",
        source="2506.05233",
        equation="z_t = G_t^T (H_t + L)^-1 q_t, H_t = a_t H_(t-1) + b_t k_t k_t^T, G_t = a_t G_(t-1) + b_t k_t v_t^T",
        config=_with("mesa"),
        state="2 H D D",
        peer="fla mesa_net (exact form)",
        note=f"Solved exactly, in the paper by conjugate gradients. Queries, keys: silu, then unit vectors. {_CONV}",
        also=("mesa layer",),
    ),
    _recurrent(
        name="log-linear-mamba2",
        title="Log-linear Mamba-2",
        source="2506.04761",
        equation="M_ij = lambda_i[bits(i xor j)] s_ij exp(sum_(j<t<=i) log a_t) dt_j",
        config=_with("log-linear"),
        state="H D D ones(T)",
        peer="fla log_linear_attn",
        note="ones(T) is the number of digits 1 of T in binary. Without the D skip; lambda = softplus(W x + b), in the "
        "released code softplus(L * (W x)).",
        also=("log-linear attention",),
    ),
    _recurrent(
        name="log-linear-gated-delta",
        title="Log-linear gated DeltaNet",
        source="2506.04761",
        equation="M_ij = lambda_i[bits(i xor j)] M'_ij, M' of gated DeltaNet",
        config=_with("log-linear", rule="gated_delta"),
        state="H D D ones(T)",
        note=f"State as of log-linear-mamba2. {_UNIT} lambda = softplus(W x + b).",
    ),
    _recurrent(
        name="path",
        title="PaTH attention",
        source="2505.16381",
        equation="M = softmax(q_i^T (prod_(j<t<=i) I - b_t w_t w_t^T) k_j / sqrt(d))",
        config=_with("path"),
        kind="explicit",
        rows="stochastic",
        state="2 H T D",
        peer="fla path_attn",
        note="w is one linear map of the stream; the paper's is low-rank, followed by a short convolution.",
    ),
    _recurrent(
        name="path-fox",
        title="PaTH with a forget gate",
        source="2505.16381",
        equation="M = softmax(q_i^T (prod_(j<t<=i) I - b_t w_t w_t^T) k_j / sqrt(d) + sum_(j<t<=i) log f_t)",
        config=_with("path", forget=True),
        kind="explicit",
        rows="stochastic",
        state="H T (2 D + 1)",
        peer="fla path_attn",
        note="w is one linear map of the stream; the paper's is low-rank, followed by a short convolution.",
    ),
    _recurrent(
        name="delta-former",
        title="DeltaFormer",
        source="2505.19488",
        equation="M = softmax(s) (I + diag(b) softmax_(j<i)(s))^-1",
        config=_with("delta-former"),
        state="2 H T D",
        peer="fla deltaformer",
        note="What a token takes out is read with its query, as in fla; the paper leaves that vector open.",
    ),
    _recurrent(
        name="gsa",
        title="Gated slot attention",
        source="2409.07146",
        equation="M_ij = sum_m p_im (1 - a_jm) prod_(j<t<=i) a_tm, p_i = softmax of q_i against the slots' keys",
        config=_with("slots"),
        rows="substochastic",
        state="2 H m D",
        peer="fla gsa",
        note="8 slots by default; scores are divided by sqrt(d). Queries and keys are silu, as in the released code; "
        "there values are silu too, and so is the output before its norm.",
    ),
    _recurrent(
        name="abc",
        title="Attention with bounded memory control",
        source="2110.02488",
        equation="M_ij = sum_m p_im exp(c_jm) / sum_(l<=i) exp(c_lm), p_i = softmax of q_i against the slots' keys",
        config=_with("slots", gate="average"),
        rows="stochastic",
        state="H m (2 D + 1)",
        peer="fla abc",
        note="8 slots by default.",
    ),
    _recurrent(
        name="delta-product",
        title="DeltaProduct",
        source="2502.10297",
        equation="n steps S <- (I - b k k^T) S + b k v^T for each token, each with its own k, v and b",
        config=_with("delta-product", decay="none"),
        peer="fla gated_delta_product",
        note=f"Two steps by default; values of later steps are extra columns. {_UNIT}",
    ),
    _recurrent(
        name="gated-delta-product",
        title="Gated DeltaProduct",
        source="2502.10297",
        equation="S <- a_t S, then n steps S <- (I - b k k^T) S + b k v^T for each token",
        config=_with("delta-product"),
        peer="fla gated_delta_product",
        note=f"Two steps by default; values of later steps are extra columns. {_UNIT}",
    ),
)

_TRAINED_AT_TEST_TIME = (
    _recurrent(
        name="titans-linear",
        title="Titans with a matrix as memory",
        source="2501.00663",
        equation="z_t = M_t^T q_t, M_t = a_t M_(t-1) + S_t, S_t = n_t S_(t-1) + r_t k_t (v_t - M_(t-1)^T k_t)^T",
        config=_with("titans"),
        state="2 H D D",
        peer="fla momentum_delta_rule",
        note="The memory alone (LMM), with a matrix in place of a network, which keeps it linear in the values. Steps "
        f"are taken token by token. There are no persistent memory tokens. {_UNIT} Values are as they come, in the "
        "paper silu.",
        also=("Titans LMM",),
    ),
    _recurrent(
        name="titans-mag",
        title="Titans, memory as a gate (MAG)",
        source="2501.00663",
        equation="z_t = g_t softmax_window(s)_t v + (1 - g_t) M_t^T q_t / sqrt(d)",
        config=_with("titans-gate"),
        state="2 H D D + 2 H w D",
        note="The gate is one number for each head and the two outputs are added, so that M exists; the paper "
        "multiplies them after normalising both. The memory is that of titans-linear. Windows of 8 tokens by default.",
        also=("MAG",),
    ),
    _recurrent(
        name="titans-mac",
        title="Titans, memory as context (MAC)",
        source="2501.00663",
        equation="z_i = sum_(j in segment) p_ij v_j + c_ij M_s^T q_j, [p, c] = softmax(q_i . [k_j, g_j] / sqrt(d))",
        config=_with("titans-context"),
        state="3 H D D + 4 H s D",
        note="Keys g of what the memory returns are read off the stream, so that M exists; the paper projects what is "
        "returned. The memory is that of titans-linear: it stores the tokens' keys and values, not what attention "
        "gives; its second reading, by what attention gives, is left out, as are persistent tokens. A token sees what "
        "tokens up to it retrieved. Segments of 8 by default.",
        also=("MAC",),
    ),
    _jacobian(
        name="titans-mlp",
        title="Titans with a two-layer network as memory",
        source="2501.00663",
        equation="z_t = f(q_t; W_t), W_t = a_t W_(t-1) + S_t, S_t = n_t S_(t-1) - r_t grad |f(k_t) - v_t|^2 / 2",
        config=_with("fast-weights", retention="decay", momentum=True),
        state="8 H D D",
        note="f(x) = x + LN(gelu(x W_1) W_2), hidden width 2 D. Steps are taken token by token, not in chunks; "
        f"their sizes are a sigmoid over the key's width. {_KEYS}",
    ),
    _recurrent(
        name="ttt-linear-plain",
        title="TTT-Linear without normalisation",
        source="2407.04620",
        equation="z_t = W_t^T q_t / sqrt(d), W_t = W_(t-1) + r_t k_t (v_t - W_b^T k_t)^T, b the start of the batch",
        config=_with("ttt"),
        state="2 H D D + 1",
        note="The inner model has no normalisation, residual or bias, and W_0 = 0, so that it is linear in the values. "
        "Keys and queries are unit vectors and step sizes sigmoids; the released code has keys as they come, and steps "
        "over the key's width. "
        "Mini-batches of 4 tokens by default, 16 in the paper.",
    ),
    _jacobian(
        name="ttt-linear",
        title="TTT-Linear",
        source="2407.04620",
        equation="z_t = f(q_t; W_t), W_t = W_(t-1) - r_t grad |f(k_t) - v_t|^2 / 2, f(x) = x + LN(x W + b)",
        config=_with("fast-weights", hidden=0),
        state="H D (D + 1)",
        peer="fla ttt (its final state)",
        note="Steps are taken token by token, the paper's in mini-batches of 16. Step sizes are a sigmoid over the "
        "key's width, as in the released code. Keys and queries are unit vectors, in the paper as they come.",
    ),
    _jacobian(
        name="ttt-mlp",
        title="TTT-MLP",
        source="2407.04620",
        equation="z_t = f(q_t; W_t), W_t = W_(t-1) - r_t grad |f(k_t) - v_t|^2 / 2, f(x) = x + LN(gelu(x W_1) W_2)",
        config=_with("fast-weights"),
        state="4 H D D",
        note="Hidden width 2 D, 4 D in the paper; no biases; steps are taken token by token. Step sizes are a "
        "sigmoid over the key's width, in the released code a tenth of that. Keys and queries are unit vectors, in "
        "the paper as they come.",
    ),
    _jacobian(
        name="moneta",
        title="Moneta (Miras)",
        source="2504.13173",
        equation="z_t = f(q_t; W_t), W_t = A_t / |A_t|_4^2, A_t = a_t A_(t-1) - r_t grad |f(k_t) - v_t|_3^3",
        config=_with("fast-weights", loss="lp", retention="lq"),
        state="4 H D D",
        note="The norm that A is divided by is held at 1 or more: a memory that forgets everything would divide by 0. "
        f"Each weight matrix has a norm of its own. Steps are taken token by token. {_KEYS}",
        also=("Miras (Moneta)",),
    ),
    _jacobian(
        name="yaad",
        title="Yaad (Miras)",
        source="2504.13173",
        equation="W_t = a_t W_(t-1) - r_t grad L(f(k_t) - v_t), L(e) = |e|^2 / 2 up to |e| = d, then d |e|_1",
        config=_with("fast-weights", loss="huber", retention="decay"),
        state="4 H D D",
        note="Steps are taken token by token, their sizes are a sigmoid over the key's width; the bound d of errors is "
        f"a softplus of the stream times sqrt(D). {_KEYS}",
        also=("Miras (Yaad)",),
    ),
    _jacobian(
        name="memora",
        title="Memora (Miras)",
        source="2504.13173",
        equation="z_t = f(q_t; W_t), W_t = softmax(a_t log W_(t-1) - r_t grad |f(k_t) - v_t|^2 / 2)",
        config=_with("fast-weights", retention="kl"),
        state="4 H D D",
        note="The softmax runs over the weights into each unit, whose sum is 1. Steps are taken token by token, "
        f"their sizes are a sigmoid over the key's width. {_KEYS}",
        also=("Miras (Memora)",),
    ),
)

_CELLS = (
    _jacobian(
        name="slstm",
        title="xLSTM's sLSTM",
        source="2405.04517",
        equation="h_t = o_t c_t / n_t, c_t = f_t c_(t-1) + i_t g_t, n_t = f_t n_(t-1) + i_t, all read x_t and h_(t-1)",
        config=_with("slstm"),
        state="4 H D",
        note="The value is what the candidate reads of the stream. Forget gates are sigmoids, input gates exponential.",
    ),
    _jacobian(
        name="lstm",
        title="LSTM",
        source="Hochreiter and Schmidhuber 1997",
        equation="h_t = o_t tanh(c_t), c_t = f_t c_(t-1) + i_t tanh(v_t + R h_(t-1)), gates read x_t and h_(t-1)",
        config=_with("lstm"),
        state="2 H D",
        note="The value is what the candidate reads of the stream; heads do not read each other's outputs.",
        also=("recurrent neural network",),
    ),
    _jacobian(
        name="brnn",
        title="Bidirectional LSTM",
        source="Schuster and Paliwal 1997",
        equation="z = LSTM(x) + reverse(LSTM'(reverse(x)))",
        config=_with("bidirectional-lstm"),
        causal=False,
        state="7 H T D",
        note="The two outputs are added; concatenating them would need a wider head.",
        also=("BiLSTM",),
    ),
)

_HYBRIDS = (
    _recurrent(
        name="samba",
        title="Samba",
        source="2406.07522",
        equation="layers of Mamba and of softmax over a sliding window by turns",
        config=_layers("mamba", "masked"),
        kind="per_channel",
        state="H D N in Mamba's layers, 2 H (w - 1) D + 1 in others",
        note=f"{_TURNS} Its state-space layers have no convolution and gate here. "
        "Its MLPs are the decoder's; positions are rotated in the paper (position: rope). Windows of 8.",
    ),
    _recurrent(
        name="mamba2-hybrid",
        title="Mamba-2 with layers of softmax",
        source="2406.07887",
        equation="layers of Mamba-2, and some of softmax",
        config=_layers("mamba2", "softmax"),
        state="H D D in Mamba-2's layers, 2 H T D in others",
        note=f"{_TURNS} Its state-space layers have no convolution and gate here. "
        "In the study 7% of the layers are attention.",
    ),
    _recurrent(
        name="delta-window",
        title="DeltaNet with layers of a sliding window",
        source="2406.06484",
        equation="layers of DeltaNet and of softmax over a sliding window by turns",
        config=_layers("delta", "masked"),
        state="H D D in DeltaNet's layers, 2 H (w - 1) D + 1 in others",
        note=f"{_TURNS} Without the convolutions, gates and norms of the paper: set conv, output_gate, output_norm. "
        "Windows of 8.",
        also=("hybrid DeltaNet",),
    ),
    _recurrent(
        name="gated-delta-window",
        title="Gated DeltaNet with layers of a sliding window",
        source="2412.06464",
        equation="layers of gated DeltaNet and of softmax over a sliding window by turns",
        config=_layers({"kind": "delta", "settings": {"decay": "head"}}, "masked"),
        state="H D D in gated DeltaNet's layers, 2 H (w - 1) D + 1 in others",
        note=f"{_TURNS} Without the convolutions, gates and norms of the paper: set conv, output_gate, output_norm. "
        "Windows of 8.",
        also=("Gated DeltaNet-H1",),
    ),
    _recurrent(
        name="titans-mal",
        title="Titans, memory as a layer (MAL)",
        source="2501.00663",
        equation="a layer of titans-linear, then one of softmax over a sliding window",
        config=_layers("titans", "masked"),
        state="2 H D D in the memory's layers, 2 H (w - 1) D + 1 in others",
        note=f"{_TURNS} Without the convolutions, gates and norms of the paper: set conv, output_gate, output_norm. "
        "The stream is added between the two; there are no persistent tokens. Windows of 8.",
        also=("MAL",),
    ),
    _recurrent(
        name="xlstm",
        title="xLSTM",
        source="2405.04517",
        equation="layers of mLSTM and of sLSTM",
        config=_layers("mlstm", "slstm"),
        state="H (D (D + 1) + 1) in mLSTM's layers, 4 H D in others",
        note=f"{_TURNS} The paper has seven layers of mLSTM for each of sLSTM.",
        also=("Bio-xLSTM",),
    ),
    _recurrent(
        name="gated-delta-hybrid",
        title="Gated DeltaNet, every fourth layer softmax",
        source="Qwen3-Next",
        equation="three layers of gated DeltaNet, then one of softmax",
        config=_layers(*({"kind": "delta", "settings": {"decay": "head"}},) * 3, "softmax", n_layers=4),
        state="H D D in gated DeltaNet's layers, 2 H T D in others",
        note="Without the convolutions, gates and norms of the paper: set conv, output_gate, output_norm. "
        "Four layers: for more, name a mixer for each. Its rotation of a part of each head is left out.",
        also=("Qwen3-Next", "Olmo Hybrid"),
    ),
    _recurrent(
        name="kimi-linear",
        title="Kimi Linear",
        source="2510.26692",
        equation="three layers of Kimi delta attention, then one of softmax without positions",
        config=_layers(*({"kind": "delta", "settings": {"decay": "channel"}},) * 3, "softmax", n_layers=4),
        state="H D D in Kimi delta attention's layers, 2 H T D in others",
        note="Without the convolutions, gates and norms of the paper: set conv, output_gate, output_norm. "
        "Four layers: for more, name a mixer for each. Its softmax layers are MLA, which is left out.",
    ),
)

ENTRIES: tuple[Variant, ...] = (*_DELTA, *_DECAY, *_SOLVED, *_TRAINED_AT_TEST_TIME, *_CELLS, *_HYBRIDS)
