"""How heads are weighted and how they share keys and values; presets with softmax, which go with other mixers."""

from __future__ import annotations

from collections.abc import Mapping

from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {}

_BALANCE = "The loss that balances the use of heads is the training's; the decoder has none."

_SHARING: tuple[Variant, ...] = (
    Variant(
        name="mqa",
        title="Multi-query attention",
        family="sharing of keys and values",
        source="1911.02150",
        equation="M_h = softmax(q_hi . k_j / sqrt(d)): all heads read one key and one value",
        config={"sharing": {"key_heads": 1, "value_heads": 1}},
        bidirectional=True,
        state="2 T D",
        also=("one write-head is all you need",),
    ),
    Variant(
        name="gqa",
        title="Grouped-query attention",
        family="sharing of keys and values",
        source="2305.13245",
        equation="head h reads key and value h // (H / G) of G",
        config={"n_heads": 4, "sharing": {"key_heads": 2, "value_heads": 2}},
        bidirectional=True,
        state="2 G T D",
        note="Four heads in two groups; any number of groups that divides the heads goes.",
    ),
    Variant(
        name="diffqkv",
        title="DiffQKV attention",
        family="sharing of keys and values",
        source="2501.13629",
        equation="fewer key heads than value heads: head h reads key h // (H / G_k) and value h // (H / G_v)",
        config={"n_heads": 4, "sharing": {"key_heads": 1, "value_heads": 2}},
        bidirectional=True,
        state="(G_k E + G_v D) T",
        note="The larger queries of the paper are d_key, which may be more than d_head; fetching only some values "
        "while decoding is not modelled.",
        also=("Sigma DiffQKV",),
    ),
    Variant(
        name="cla",
        title="Cross-layer attention",
        family="sharing of keys and values",
        source="2405.12981",
        equation="k^l, v^l = k^(l - l mod 2), v^(l - l mod 2): every second layer reads the one before it",
        config={"sharing": {"layers": 2}},
        bidirectional=True,
        state="2 H T D in every second layer, 0 in the others",
    ),
    Variant(
        name="mlkv",
        title="Multi-layer key-value sharing",
        family="sharing of keys and values",
        source="2406.09297",
        equation="one key and value head for all heads of m layers in a row",
        config={"sharing": {"key_heads": 1, "value_heads": 1, "layers": 2}},
        bidirectional=True,
        state="2 T D in every m-th layer, 0 in the others",
        note="The paper starts from a trained model and averages its heads; here it is trained from the start.",
    ),
    Variant(
        name="mla",
        title="Multi-head latent attention",
        family="sharing of keys and values",
        source="2405.04434",
        equation="c_j = norm(W_c x_j); k_hj = (R_j W_KR x_j, W_K c_j), v_hj = W_V c_j",
        config={
            "d_key": 8,
            "sharing": {"latent": 8, "latent_rope": 2},
            "position": {"kind": "rope", "settings": {"fraction": 0.25}},
        },
        bidirectional=True,
        state="(latent + rope) T",
        peer="transformers DeepseekV3Attention",
        note="Queries are not compressed. The turned part comes first in a head, and its width is latent_rope: keep "
        "fraction * d_key equal to it.",
    ),
    Variant(
        name="inattention",
        title="InAttention",
        family="sharing of keys and values",
        source="2410.07063",
        equation="k_j = W_K x_j^0, v_j = W_V x_j^0: keys and values of every layer are made from the embedding",
        config={"sharing": {"source": "embedding"}},
        bidirectional=True,
        state="d_model T in the first layer, 0 in the others",
        note="The embedding is normalised in every layer with a gain of its own.",
    ),
    Variant(
        name="resformer",
        title="ResFormer value residual",
        family="sharing of keys and values",
        source="2410.17897",
        equation="z^l = M^l (a_l v^0 + b_l v^l), a and b learned in every layer but the first",
        config={"value_residual": "learned"},
        bidirectional=True,
        also=("value residual learning",),
    ),
    Variant(
        name="svformer",
        title="SVFormer",
        family="sharing of keys and values",
        source="2410.17897",
        equation="z^l = M^l v^0: all layers use the values of the first",
        config={"value_residual": "first"},
        bidirectional=True,
        state="2 H T D in the first layer, H T D in the others",
    ),
)

_MIXING: tuple[Variant, ...] = (
    Variant(
        name="moh",
        title="Mixture of heads",
        family="head mixing",
        source="2410.11842",
        equation="y = sum_h g_h(x) H_h W_O^h, g = (a_1 softmax(W_s x), a_2 top-k softmax(W_r x)), a = softmax(W_h x)",
        config={"heads": "moh"},
        bidirectional=True,
        note=f"A quarter of the heads are always on (none of two) and half of the others for each token, unless set. "
        f"The setting scaled takes the weights of the authors' code, of mean one. {_BALANCE}",
    ),
    Variant(
        name="switchhead",
        title="SwitchHead",
        family="head mixing",
        source="2312.07987",
        equation="v_j = sum_e s_je W_V^e x_j, y_i = sum_e r_ie W_O^e z_i, s and r top-k sigmoids, experts in every "
        "head",
        config={"heads": "switch"},
        bidirectional=True,
        note=f"hook_head_weight is the sum of a head's output gates. {_BALANCE}",
    ),
    Variant(
        name="attention-experts",
        title="Mixture of attention heads",
        family="head mixing",
        source="2210.05144",
        equation="y = sum_(e in top-k) p_e / sum p  softmax(q_e k^T / sqrt(d)) v W_O^e, p = softmax(W x)",
        config={"heads": {"kind": "experts", "settings": {"top_k": 1}}, "sharing": {"key_heads": 1, "value_heads": 1}},
        bidirectional=True,
        state="2 T D",
        peer="transformers JetMoeAttention",
        note="Every head is an expert, so the pattern of each is there to look at; one is on for each token unless "
        f"set. The sum that weights are divided by has no gradient. {_BALANCE}",
        also=("MoA (mixture of attention heads)", "JetMoE attention"),
    ),
    Variant(
        name="bam",
        title="BAM soft mixture of attention experts",
        family="head mixing",
        source="2408.08274",
        equation="y = sum_e p_e Attention_e(x), p = softmax(W x) over all experts",
        config={"heads": "experts"},
        bidirectional=True,
        note="The form with keys and values for each expert; with sharing.key_heads and value_heads equal to "
        "heads_each experts share them. Upcycling from trained models and the parallel MLP experts are not modelled.",
    ),
    Variant(
        name="shrp",
        title="Expert attention of SHRP",
        family="head mixing",
        source="2512.20635",
        equation="y = W_out gelu(W_in p_h z_h), h = argmax p, p = softmax(W x)",
        config={"heads": "shrp"},
        bidirectional=True,
        note="From the abstract: one head for each token and an output network that all heads share. That the chosen "
        "head is weighted by its probability, which trains the router, and the network's form are ours; pruning unused "
        f"heads is left to the user. {_BALANCE}",
    ),
    Variant(
        name="head-gate",
        title="Sigmoid gate on every head's output",
        family="head mixing",
        source="2505.06708",
        equation="z_h <- sigmoid(w_h . x) z_h",
        config={"output_gate": "head"},
        bidirectional=True,
        also=("gated attention, head-wise",),
    ),
    Variant(
        name="channel-gate",
        title="Sigmoid gate on every channel of the heads' output",
        family="head mixing",
        source="2505.06708",
        equation="z_h <- sigmoid(W_h x) * z_h",
        config={"output_gate": "channel"},
        bidirectional=True,
        also=("gated attention, elementwise",),
    ),
    Variant(
        name="ngpt",
        title="nGPT",
        family="softmax and its normalisers",
        source="2410.01131",
        equation="h <- unit(h + a * (unit(f(h)) - h)), s_ij = sqrt(d) (s_qk unit(q_i)) . (s_qk unit(k_j))",
        config={"block": "sphere", "position": "rope"},
        bidirectional=True,
        note="Weights are made unit vectors after every step. MLPs, where the config has them, keep the decoder's "
        "gelu in place of the paper's SwiGLU.",
        also=("normalised Transformer",),
    ),
)

ENTRIES: tuple[Variant, ...] = _SHARING + _MIXING
