"""Sparse by content: which keys a row looks at depends on what they are."""

from __future__ import annotations

from collections.abc import Mapping

from headscope.mixers.registry import Variant

MIXERS: Mapping[str, str] = {
    "routing": "headscope.mixers.routing:Routing",
    "combiner": "headscope.mixers.combiner:Combiner",
    "longheads": "headscope.mixers.region_routing:ChunkRouting",
    "hip": "headscope.mixers.top_keys:TreeSearch",
    "sampled-keys": "headscope.mixers.sampled_keys:SampledKeys",
    "top-keys": "headscope.mixers.top_keys:TopKeys",
    "reformer": "headscope.mixers.hashing_buckets:Reformer",
    "hash-equal": "headscope.mixers.hashing_buckets:HashEqual",
    "block-gate": "headscope.mixers.block_choice:BlockGate",
    "nsa": "headscope.mixers.native_sparse:NativeSparse",
    "moba": "headscope.mixers.block_choice:MixtureOfBlocks",
    "lightning-indexer": "headscope.mixers.predicted_mask:LightningIndexer",
    "low-rank-mask": "headscope.mixers.predicted_mask:LowRankMask",
    "estimated-attention": "headscope.mixers.estimated_attention:EstimatedAttention",
    "region-routing": "headscope.mixers.region_routing:RegionRouting",
    "collision": "headscope.mixers.collision:Collision",
    "sparse-queries": "headscope.mixers.sparse_queries:SparseQueries",
    "token-gates": "headscope.mixers.token_gates:TokenGates",
    "multi-resolution": "headscope.mixers.combiner:MultiResolution",
    "head-spans": "headscope.mixers.head_spans:HeadSpans",
    "recycled": "headscope.mixers.recycled:Recycled",
}

ENTRIES: tuple[Variant, ...] = (
    Variant(
        name="routing",
        title="Routing Transformer",
        family="sparse by content",
        source="2003.05997",
        equation="M_ij = softmax over {j <= i : c(x_j) = c(x_i)} of x_i . x_j / sqrt(d), c(x) = argmax_c mu_c . x",
        config={"mixer": "routing"},
        bidirectional=True,
        note="clusters are whole: the paper's best tokens of each centroid would look ahead; x is the layer norm of "
        "(q + k) / sqrt 2, one projection for both, as the paper has it left to right; centroids are buffers that "
        "follow their members' mean after each training step; every head routes, not half of them",
    ),
    Variant(
        name="combiner",
        title="Combiner (fixed)",
        family="sparse by content",
        source="2107.05768",
        equation="M_ij = p(j | i) in the own block, p(R | i) p(j | R) for earlier blocks R; p(R | i) ~ exp(q_i . k_R)",
        config={"mixer": "combiner"},
        state="2 H D (T mod c + floor(T / c)) + H D",
        note="blocks of a fixed size c; q_R and k_R are maxima over the block, one of the summaries in the authors' "
        "code; only Combiner-Fixed, not the axial and logarithmic patterns; within a block, p(j | R) has no bias of "
        "positions",
    ),
    Variant(
        name="longheads",
        title="LongHeads",
        family="sparse by content",
        source="2402.10685",
        equation="M = softmax(s) over the first chunk, the two newest and the top chunks by q_i . c, for each head",
        config={"mixer": "longheads"},
        state="2 H T D + H D (floor(T / c) + T mod c)",
        note="trained from the start; on a trained model it is the policy 'longheads'; chunk keys c are made of "
        "queries and keys only, and positions are those of the text, not of the chosen chunks side by side",
    ),
    Variant(
        name="hip",
        title="HiP (tree search for top keys)",
        family="sparse by content",
        source="2406.09827",
        equation="M = softmax(s) over k keys found by halving k nodes, each half judged by its middle key",
        config={"mixer": "hip"},
        bidirectional=True,
        note="trained from the start; on a trained model it is the policy 'hip'; each query searches alone, not in "
        "blocks; the choice passes no gradient",
    ),
    Variant(
        name="hyper",
        title="HyperAttention",
        family="sparse by content",
        source="2310.05869",
        equation="M_ij ~ exp(s_ij) w_ij, w = 1 in the hash bucket and nearby, 1 / p_i for a sample of the others",
        config={"mixer": {"kind": "sampled-keys", "settings": {"rates": "uniform"}}},
        note="trained from the start; on a trained model it is the policy 'hyper'; buckets row by row instead of "
        "sorted blocks, and no recursive halving, so that rows depend on nothing later; draws and planes are fixed",
    ),
    Variant(
        name="kdeformer",
        title="KDEformer",
        family="sparse by content",
        source="2302.02451",
        equation="M_ij ~ exp(s_ij) w_ij, w = 1 in the bucket, 1 / p_ij for those sampled by exp(|k_j|^2 / 2 sqrt d)",
        config={"mixer": {"kind": "sampled-keys", "settings": {"rates": "key_norm", "samples": 12}}},
        note="columns are sampled by a weight that each key has by itself, half of them evenly: the paper's column "
        "norms need all queries and values; numerator and row sum share one sample",
    ),
    Variant(
        name="top-keys",
        title="Top keys (explicit sparse transformer)",
        family="sparse by content",
        source="1912.11637",
        equation="M = softmax(s) over the k largest s_ij of each row",
        config={"mixer": "top-keys"},
        bidirectional=True,
        peer="x-transformers attn_sparse_topk",
        note="exact search, the bound of what an index can find; on a trained model it is the policy 'top-keys'; "
        "Unlimiformer has it in cross-attention to an encoder's states, this is self-attention",
        also=("IceFormer", "explicit sparse transformer", "top-k oracle"),
    ),
    Variant(
        name="reformer",
        title="Reformer (LSH attention)",
        family="sparse by content",
        source="2001.04451",
        equation="M = softmax(x_i . x_j / |x_j| sqrt(d)) over the union of rounds of {j < i : h_r(x_j) = h_r(x_i)}",
        config={"mixer": "reformer"},
        bidirectional=True,
        peer="reformer-pytorch LSHAttention (two buckets, one vector for query and key)",
        note="the paper's merge of rounds by their normalisers is softmax over their union; whole buckets, not chunks "
        "of the sorted list; x is (q + k) / sqrt 2, one projection for both; rotations are drawn once",
        also=("LSH attention",),
    ),
    Variant(
        name="seer",
        title="SeerAttention",
        family="sparse by content",
        source="2410.13276",
        equation="M = softmax(s + log sigmoid g) over the own block and top blocks by g_ir = W_q q_i . W_k pool(k)_r",
        config={"mixer": "block-gate"},
        note="the gate is trained with the model through log sigmoid g; the paper fits it to the pooled attention of a "
        "finished model; the row's own query instead of one pooled over its block, which would look ahead; a bias of "
        "positions is not in the gate",
        also=("SeerAttention-R",),
    ),
    Variant(
        name="nsa",
        title="Native sparse attention",
        family="sparse by content",
        source="2502.11089",
        equation="M = g_1 compressed blocks + g_2 softmax over chosen blocks + g_3 softmax over a window",
        config={"mixer": "nsa"},
        rows="positive",
        peer="fla nsa (uniform places)",
        note="blocks of compression do not overlap and are those of choice; compression weighs places instead of an "
        "MLP; the three branches share keys and values; each head chooses for itself; training passes through the "
        "compressed branch",
    ),
    Variant(
        name="moba",
        title="Mixture of block attention",
        family="sparse by content",
        source="2502.13189",
        equation="M = softmax(s) over the own block and the top earlier blocks by q_i . mean k_r",
        config={"mixer": "moba"},
        note="the choice passes no gradient, as in the paper; a bias of positions is added to the scores and is not in "
        "the choice",
    ),
    Variant(
        name="dsa",
        title="DeepSeek sparse attention (lightning indexer)",
        family="sparse by content",
        source="2512.02556",
        equation="M = softmax(s + log sigmoid I) over the top k of I_ij = sum_h w_ih relu(q^I_ih . k^I_j)",
        config={"mixer": "lightning-indexer"},
        bidirectional=True,
        state="2 H T D + T r",
        peer="fla dsa (choice of keys)",
        note="log sigmoid I on the scores trains the indexer with the model; the paper fits it to the attention of all "
        "heads and adds nothing to the scores; no rotation of index keys; of keys with equal I, such as those that no "
        "index head fires on, the earlier ones are taken",
    ),
    Variant(
        name="sparsifiner",
        title="Sparsifiner",
        family="sparse by content",
        source="2303.13755",
        equation="M = softmax(s + log sigmoid c) over the top k of c_ij = A q_i . B k_j, A and B of low rank",
        config={"mixer": "low-rank-mask"},
        bidirectional=True,
        note="low rank over the width; the paper's is over the tokens of an image of fixed size; log sigmoid c on the "
        "scores trains the predictor",
    ),
    Variant(
        name="sea",
        title="SEA (sparse attention from an estimated matrix)",
        family="sparse by content",
        source="2310.01777",
        equation="M = softmax(s + log p) over top columns of p = softmax(log c + MLP(log c)), c from linear attention",
        config={"mixer": "estimated-attention"},
        note="the decoder is an MLP over columns of a fixed size, without values and without convolutions over rows; "
        "log p on the scores trains it with the model; the paper fits it to a finished model",
    ),
    Variant(
        name="biformer",
        title="BiFormer (bi-level routing)",
        family="sparse by content",
        source="2303.08810",
        equation="M = softmax(s) over the own region and the top earlier regions by mean q . mean k",
        config={"mixer": "region-routing"},
        state="2 H T D + H D",
        note="regions of a text instead of an image, left to right: a region's mean query goes as far as the row; no "
        "depthwise convolution of values beside it",
    ),
    Variant(
        name="yoso",
        title="YOSO (expected collisions)",
        family="sparse by content",
        source="2111.09714",
        equation="M_ij = (1 - arccos(q_i . k_j) / pi)^tau, q and k of unit length; z is normalised",
        config={"mixer": "collision", "output_norm": True},
        rows="positive",
        bidirectional=True,
        peer="transformers yoso (expectation, before its normalisation)",
        note="the expectation that the paper's one hash of tau hyperplanes estimates, with its own derivative; z has "
        "RMS normalisation with a learned gain where the paper divides by its norm; no convolution of values",
        also=("YOSO-E",),
    ),
    Variant(
        name="prob-sparse",
        title="Informer (ProbSparse)",
        family="sparse by content",
        source="2012.07436",
        equation="M_i = softmax(s_i) if max_j s_ij - mean_j s_ij is among the top u = ceil(c log(i + 1)), else 1 / i",
        config={"mixer": "sparse-queries"},
        bidirectional=True,
        state="2 H T D + H T",
        note="left to right a row is ranked among the rows up to it; sharpness is exact, not sampled; rows that do not "
        "attend read the mean, where the paper's decoder reads the sum",
    ),
    Variant(
        name="hash-sparse",
        title="Sparse Flash attention (equal hashes)",
        family="sparse by content",
        source="2306.01160",
        equation="M = softmax(s) over {j <= i : h(k_j) = h(q_i)} and i itself",
        config={"mixer": {"kind": "hash-equal", "settings": {"rounds": 1}}},
        bidirectional=True,
        note="a token always sees itself, so that no row is empty; the rotation is drawn once",
        also=("SCFA hash-sparse",),
    ),
    Variant(
        name="query-key-drop",
        title="Sparse Flash attention (dropped queries and keys)",
        family="sparse by content",
        source="2306.01160",
        equation="M_ij = r_i softmax_j(s_ij + log sigmoid a_j) over a_j > 0, r_i = sigmoid(b_i) [b_i > 0]",
        config={"mixer": {"kind": "token-gates", "settings": {"queries": True, "grace": 0}}},
        rows="substochastic",
        bidirectional=True,
        state="2 H T D + H T",
        note="learned gates of each head drop; the paper leaves open what drops and tests it at random",
        also=("SCFA QK-sparse",),
    ),
    Variant(
        name="attention-gate",
        title="Attention-Gate",
        family="sparse by content",
        source="2410.12876",
        equation="M_ij = softmax_j(s_ij + log sigmoid a_j) over a_j > 0 and j = i",
        config={"mixer": "token-gates"},
        state="2 H T D + H T",
        bidirectional=True,
        note="on a trained model it is the policy 'attention-gate'; gates are linear in the token's stream, where the "
        "paper has a small attention layer; log sigmoid a trains them; the state counted is that without evictions",
    ),
    Variant(
        name="colt5",
        title="CoLT5 (conditional attention)",
        family="sparse by content",
        source="2303.09752",
        equation="M = softmax over a window + r_i softmax_j(s_ij + log sigmoid a_j) over routed keys, for routed rows",
        config={"mixer": {"kind": "token-gates", "settings": {"queries": True, "grace": 0, "window": 4}}},
        rows="positive",
        bidirectional=True,
        state="2 H T D + H T",
        note="a token is routed where its gate is positive, for each head: the paper's top k of a text would look "
        "ahead; light and heavy attention share projections; only the attention, not the two MLPs",
    ),
    Variant(
        name="vcc",
        title="Vcc (compression around the tokens that matter)",
        family="sparse by content",
        source="2305.04241",
        equation="M = softmax over tokens of the own and top blocks, over other blocks R by q_i . mean k_R + log |R|",
        config={"mixer": "multi-resolution"},
        note="every row is the token that matters for itself: the paper's are the question's, which all rows would "
        "have to know; two resolutions",
    ),
    Variant(
        name="moa-spans",
        title="MoA (mixture of sparse attention)",
        family="sparse by content",
        source="2406.14909",
        equation="M = softmax(s) over the first tokens and the last w_h(i) = a_h + b_h i, for each head",
        config={"mixer": "head-spans"},
        state="2 D sum_h(min(T, n + a_h + floor(b_h T))) + 1",
        note="spans are settings; the search for them, and MoA on a trained model, is the policy 'moa'; the span grows "
        "with the text so far",
    ),
    Variant(
        name="recycled",
        title="Recycled Attention",
        family="sparse by content",
        source="2411.05787",
        equation="M = softmax(s) over the top k of the last full row and the tokens since; every n-th row is full",
        config={"mixer": "recycled"},
        state="2 H T D + H k",
        note="trained from the start; on a trained model it is the policy 'recycled'; each query head chooses",
    ),
    Variant(
        name="echo-att",
        title="EchoAtt",
        family="sparse by content",
        source="2409.14595",
        equation="M of layer l is M of an earlier layer",
        status="left out",
        training="distilled",
        note="needs a decoder whose layers hand their M on: a mixer is given one layer's queries and keys. The nearest "
        "that can be built is sharing.layers, which shares keys and values",
    ),
)
