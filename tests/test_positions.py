"""Position encodings against plain loops, against transformers, and against what they promise."""

from __future__ import annotations

from math import cos, exp, floor, log, pi, sin
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from headscope.errors import ConfigError, UnknownNameError, UnsupportedError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.mixing_layer import layer_shape
from headscope.models.decoder.positions import NoPositions, build_positions
from headscope.models.decoder.positions_bias import alibi_slopes, t5_buckets
from headscope.models.decoder.positions_stream import sinusoids

BATCH, HEADS, WIDTH, MODEL, LENGTH, N_CTX, SCALE = 2, 2, 6, 12, 9, 16, 0.4
TURNS = ["rope", "xpos", "coca"]
BIASES = ["alibi", "t5", "kerple", "fire", "relative", "transformer-xl", "cope"]
PLACES = torch.tensor([0, 1, 2, 3, 5, 8, 9, 12, 15])  # not only neighbours


def config(kind: str, more: dict[str, Any] | None = None, **settings: Any) -> DecoderConfig:
    sizes = {"d_vocab": 7, "n_ctx": N_CTX, "n_heads": HEADS, "d_model": MODEL, "d_head": WIDTH}
    return DecoderConfig.parse({**sizes, "position": {"kind": kind, "settings": settings}, **(more or {})})


def encoding(kind: str, more: dict[str, Any] | None = None, **settings: Any) -> NoPositions:
    chosen = config(kind, more, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build_positions(chosen, layer_shape(chosen, 0)).double()


def vectors(seed: int = 0, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, length, HEADS, WIDTH, generator=generator, dtype=torch.float64)


def rotated_scores(kind: str, places: Tensor, **settings: Any) -> Tensor:
    query, key = encoding(kind, **settings).rotate(vectors(0), vectors(1), places)
    return torch.einsum("bihe,bjhe->bhij", query, key)


def bias(kind: str, places: Tensor = PLACES, more: dict[str, Any] | None = None, **settings: Any) -> Tensor:
    query, key = vectors(0, len(places)).transpose(1, 2), vectors(1, len(places)).transpose(1, 2)
    found = encoding(kind, more, **settings).bias(query, key, places, SCALE)
    assert found is not None
    return found.detach().expand(BATCH, HEADS, -1, -1)


@torch.no_grad()
def by_cell(cell: Any) -> Tensor:
    """A tensor (B, H, i, j) of a function of batch, head and the indices of row and column; 0 after the row."""
    found = torch.zeros(BATCH, HEADS, LENGTH, LENGTH, dtype=torch.float64)
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(LENGTH):
                for j in range(i + 1):
                    found[b, h, i, j] = float(cell(b, h, i, j))
    return found


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.tril(), wanted, rtol=1e-9, atol=1e-9)


def rotation(angle: float) -> Tensor:
    return torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]], dtype=torch.float64)


def pair_products(frequencies: list[float], fade: Any = None) -> Tensor:
    """Scores where every pair of dimensions is turned by the distance, in plain loops."""
    query, key, half = vectors(0), vectors(1), len(frequencies)

    def cell(b: int, h: int, i: int, j: int) -> Tensor:
        offset = int(PLACES[i] - PLACES[j])
        q, k = query[b, i, h], key[b, j, h]
        total = q[2 * half :] @ k[2 * half :]
        for pair, frequency in enumerate(frequencies):
            turned = rotation(offset * frequency) @ q[[pair, pair + half]]
            factor = 1.0 if fade is None else fade(pair, offset)
            total = total + factor * (turned @ k[[pair, pair + half]])
        return total

    return by_cell(cell)


def plain(pairs: int = 3, base: float = 10000.0) -> list[float]:
    return [base ** (-pair / pairs) for pair in range(pairs)]


@pytest.mark.parametrize(
    ("settings", "frequencies"),
    [
        pytest.param({}, plain(), id="plain"),
        pytest.param({"base": 50.0}, plain(base=50.0), id="base"),
        pytest.param({"fraction": 0.7}, plain(2), id="part-of-the-head"),
        pytest.param({"interpolation": "linear", "factor": 4}, [w / 4 for w in plain()], id="linear"),
        pytest.param({"interpolation": "ntk", "factor": 4}, plain(base=10000.0 * 4 ** (WIDTH / (WIDTH - 2))), id="ntk"),
        pytest.param(
            {"interpolation": "power", "power": 2},
            [w * (1 - p / 3) ** 2 for p, w in enumerate(plain())],
            id="power",
        ),
        pytest.param(
            {"interpolation": "truncated", "cutoff": 4, "base": 64.0},
            [2 * pi / 4 * (1 / 16), 2 * pi / 4 * (1 / 16), 0.0],
            id="truncated",
        ),
    ],
)
def test_rope_turns_every_pair_by_the_distance(settings: dict[str, Any], frequencies: list[float]) -> None:
    same(rotated_scores("rope", PLACES, **settings), pair_products(frequencies))


def test_truncated_keeps_what_turns_within_the_cutoff() -> None:
    found = encoding("rope", interpolation="truncated", cutoff=7.0, base=64.0).frequencies(torch.device("cpu"))
    torch.testing.assert_close(found.tolist(), [1.0, 2 * pi / (16 * 7), 0.0])  # of 1, 1/4, 1/16


def test_ntk_divides_the_lowest_frequency_and_keeps_the_highest() -> None:
    device = torch.device("cpu")
    before, after = (
        encoding("rope").frequencies(device),
        encoding("rope", interpolation="ntk", factor=8).frequencies(device),
    )
    assert float(after[0]) == float(before[0])
    assert float(before[-1] / after[-1]) == pytest.approx(8)


@pytest.mark.parametrize("kind", ["rope", "coca"])
def test_a_rotation_sees_only_distances(kind: str) -> None:
    torch.testing.assert_close(rotated_scores(kind, PLACES), rotated_scores(kind, PLACES + 1000), rtol=0, atol=1e-9)


def test_rope_is_that_of_llama() -> None:
    llama = LlamaConfig(hidden_size=HEADS * 8, num_attention_heads=HEADS, max_position_embeddings=64)
    query, key = torch.randn(2, 40, HEADS, 8), torch.randn(2, 40, HEADS, 8)
    places = torch.arange(40)
    cosines, sines = LlamaRotaryEmbedding(llama)(query, places[None])
    theirs = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cosines, sines)
    chosen = config("rope", {"d_head": 8})
    ours = build_positions(chosen, layer_shape(chosen, 0)).rotate(query, key, places)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.transpose(1, 2), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("linear", "linear"), ("ntk", "dynamic")])
def test_interpolations_are_those_of_transformers(kind: str, name: str) -> None:
    rope = {"rope_type": name, "factor": 4.0, "rope_theta": 10000.0}
    llama = LlamaConfig(hidden_size=8, num_attention_heads=1, max_position_embeddings=64, rope_parameters=rope)
    module = LlamaRotaryEmbedding(llama)
    if name == "dynamic":  # factor 4 at twice the length is base * (4 * 2 - 3)^(d / (d - 2)), a fixed factor of 5
        module(torch.zeros(1, 128, 8), torch.arange(128)[None])
    factor = 5.0 if name == "dynamic" else 4.0
    chosen = config("rope", {"d_head": 8}, interpolation=kind, factor=factor)
    ours = build_positions(chosen, layer_shape(chosen, 0)).frequencies(torch.device("cpu"))
    torch.testing.assert_close(ours.float(), module.inv_freq, rtol=1e-5, atol=0)


def test_xpos_fades_every_pair_with_the_distance() -> None:
    def fade(pair: int, offset: int) -> float:
        return ((pair / 3 + 0.4) / 1.4) ** (offset / 20)

    same(rotated_scores("xpos", PLACES, scale_base=20), pair_products(plain(), fade))


def test_xpos_with_an_endless_scale_is_rope() -> None:
    torch.testing.assert_close(rotated_scores("xpos", PLACES, scale_base=1e15), rotated_scores("rope", PLACES))


def test_coca_is_a_rotated_product_of_collinear_vectors() -> None:
    query, key = vectors(0), vectors(1)

    def cell(b: int, h: int, i: int, j: int) -> Tensor:
        q, k, total = query[b, i, h], key[b, j, h], torch.zeros((), dtype=torch.float64)
        for pair, frequency in enumerate(plain()):
            at = [pair, pair + 3]
            collinear = q[at] * k[at].mean().relu()
            total = total + (rotation(int(PLACES[i]) * frequency) @ q[at]) @ (
                rotation(int(PLACES[j]) * frequency) @ collinear
            )
        return total

    same(rotated_scores("coca", PLACES), by_cell(cell))


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 20])
def test_alibi_slopes_are_those_of_bloom(heads: int) -> None:
    torch.testing.assert_close(torch.tensor(alibi_slopes(heads)), _get_alibi_slopes(heads, torch.device("cpu")))


def test_alibi_is_a_straight_line() -> None:
    same(bias("alibi"), by_cell(lambda _, h, i, j: -(2.0 ** (-4 * (h + 1))) * int(PLACES[i] - PLACES[j])))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize(("buckets", "largest"), [(32, 128), (8, 20), (64, 1000)])
def test_buckets_are_those_of_t5(causal: bool, buckets: int, largest: int) -> None:
    offset = torch.arange(-3000, 3000)
    theirs = T5Attention._relative_position_bucket(-offset, not causal, buckets, largest)
    assert torch.equal(t5_buckets(offset, buckets=buckets, max_distance=largest, causal=causal), theirs)


def test_t5_gives_every_bucket_its_number() -> None:
    table = encoding("t5", buckets=8, max_distance=12).table.detach()
    wanted = by_cell(
        lambda _, h, i, j: table[t5_buckets(PLACES[i] - PLACES[j], buckets=8, max_distance=12, causal=True), h]
    )
    same(bias("t5", buckets=8, max_distance=12), wanted)


@pytest.mark.parametrize("kernel", ["log", "power"])
def test_kerple_is_its_kernel(kernel: str) -> None:
    raw = encoding("kerple", kernel=kernel).raw.detach()

    def cell(_: int, h: int, i: int, j: int) -> float:
        d, size = int(PLACES[i] - PLACES[j]), log(1 + exp(raw[0, h]))
        if kernel == "log":
            return -size * log(1 + log(1 + exp(raw[1, h])) * d)
        return -size * d ** (2 / (1 + exp(-raw[1, h])))

    same(bias("kerple", kernel=kernel), by_cell(cell))


def test_kerple_has_finite_gradients_at_distance_zero() -> None:
    module = encoding("kerple", kernel="power")
    module.of(PLACES).sum().backward()
    assert bool(module.raw.grad.isfinite().all())


def test_fire_is_a_network_of_the_share_of_the_way() -> None:
    m = encoding("fire", threshold=6.0, hidden=5)

    def psi(x: float) -> float:
        return log(0.1 * x + 1)

    def cell(_: int, h: int, i: int, j: int) -> Tensor:
        row, column = int(PLACES[i]), int(PLACES[j])
        x = psi(row - column) / psi(max(6.0, row))
        hidden = [max(0.0, x * w + c) for w, c in zip(m.W_in.tolist(), m.b_in.tolist(), strict=True)]
        return sum(value * m.W_out[at, h].detach() for at, value in enumerate(hidden))

    torch.testing.assert_close(
        bias("fire", threshold=6.0, hidden=5).tril(), by_cell(cell), rtol=1e-4, atol=1e-4
    )  # the module divides by a little more than psi


@pytest.mark.parametrize(("largest", "per_head"), [(4, True), (4, False), (None, True)])
def test_relative_vectors_are_read_at_the_clipped_distance(largest: int | None, per_head: bool) -> None:
    table = encoding("relative", largest=largest, per_head=per_head).vectors.detach()
    query = vectors(0)

    def cell(b: int, h: int, i: int, j: int) -> Tensor:
        offset = min(int(PLACES[i] - PLACES[j]), largest or N_CTX - 1)
        return SCALE * (query[b, i, h] @ table[h if per_head else 0, offset])

    same(bias("relative", largest=largest, per_head=per_head), by_cell(cell))


def test_relative_vectors_see_both_sides() -> None:
    table = encoding("relative", {"causal": False}, largest=3).vectors.detach()
    found = bias("relative", more={"causal": False}, largest=3)
    assert table.shape[1] == 7
    query = vectors(0)
    wanted = SCALE * (query[1, 2, 0] @ table[0, 3 - 3])  # row 2, column 8: ten positions later
    assert float(found[1, 0, 2, 8]) == pytest.approx(float(wanted))


def test_relative_is_the_music_transformers_skewing() -> None:
    size = 7
    table = encoding("relative", largest=size - 1).vectors.detach()
    query = vectors(0, size).transpose(1, 2)
    reverse = table.flip(1)  # the paper's E_r: from the longest distance to none
    products = torch.nn.functional.pad(query @ reverse.mT * SCALE, (1, 0))
    skewed = products.reshape(BATCH, HEADS, size + 1, size)[:, :, 1:]
    found = bias("relative", torch.arange(size), largest=size - 1)
    torch.testing.assert_close(found.tril(), skewed.tril())


@pytest.mark.parametrize("width", [12, 7], ids=["even", "odd"])
def test_transformer_xl_is_its_four_terms(width: int) -> None:
    more = {"d_model": width}
    m = encoding("transformer-xl", more)
    query, key, pairs = vectors(0), vectors(1), (width + 1) // 2

    def cell(b: int, h: int, i: int, j: int) -> Tensor:
        offset = int(PLACES[i] - PLACES[j])
        angles = [offset * 10000.0 ** (-2 * p / width) for p in range(pairs)]
        relative = torch.tensor([sin(a) for a in angles] + [cos(a) for a in angles], dtype=torch.float64)
        place = relative @ m.W_R[h]
        return SCALE * ((query[b, i, h] + m.v[h]) @ place + m.u[h] @ key[b, j, h])

    same(bias("transformer-xl", more=more), by_cell(cell))


@pytest.mark.parametrize("largest", [3, 16])
def test_cope_counts_what_the_query_opens(largest: int) -> None:
    e, query, key = encoding("cope", largest=largest).vectors.detach(), vectors(0), vectors(1)

    def cell(b: int, h: int, i: int, j: int) -> Tensor:
        q = query[b, i, h]
        place = sum(1 / (1 + exp(-SCALE * float(q @ key[b, t, h]))) for t in range(j, i + 1))
        place = min(place, largest)
        low = floor(place)
        high = min(low + 1, largest)
        return q @ (e[:, low] * (low + 1 - place) + e[:, high] * (place - low))

    same(bias("cope", largest=largest), by_cell(cell))


@pytest.mark.parametrize("kind", ["alibi", "t5", "kerple", "relative", "transformer-xl"])
def test_a_bias_sees_only_distances(kind: str) -> None:
    torch.testing.assert_close(bias(kind), bias(kind, PLACES + 700), rtol=0, atol=1e-9)


def test_sinusoids_are_sines_and_cosines() -> None:
    found = sinusoids(torch.tensor([0, 3, 50]), 5, 10000.0)
    wanted = [
        [f(p * 10000.0 ** (-2 * (c // 2) / 5)) for c, f in enumerate([sin, cos, sin, cos, sin])] for p in (0, 3, 50)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["none", "sinusoidal", *TURNS, *BIASES])
def test_a_text_may_be_longer_than_those_trained_on(kind: str) -> None:
    model = Decoder(config(kind)).eval()
    tokens = torch.randint(0, 7, (1, 3 * N_CTX), generator=torch.Generator().manual_seed(0))
    assert bool(model(tokens).isfinite().all())


def test_learned_positions_end() -> None:
    model = Decoder(config("learned"))
    with pytest.raises(UnsupportedError, match="17 tokens is longer than the 16 learned positions"):
        model(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", *TURNS, *BIASES])
def test_an_encoding_tells_orders_apart(kind: str) -> None:
    """The last row of one layer reads a set without positions: swapping two earlier tokens then changes nothing."""
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    swapped = torch.tensor([[2, 1, 3, 4, 5]])
    plain_model = Decoder(config("none", {"n_layers": 1})).double()
    torch.testing.assert_close(plain_model(tokens)[:, -1], plain_model(swapped)[:, -1])
    model = Decoder(config(kind, {"n_layers": 1})).double()
    assert not torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-4)


@pytest.mark.parametrize("kind", TURNS)
def test_a_rotation_goes_with_linear_attention(kind: str) -> None:
    model = Decoder(config(kind, {"mixer": "linear"}))
    assert bool(model(torch.zeros(1, 5, dtype=torch.int64)).isfinite().all())


@pytest.mark.parametrize("kind", BIASES)
def test_a_bias_wants_scores(kind: str) -> None:
    with pytest.raises(ConfigError, match="adds a bias to scores, and the mixer 'linear' has none"):
        Decoder(config(kind, {"mixer": "linear"}))


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        pytest.param({"position": "rpoe"}, UnknownNameError, "Did you mean 'rope'", id="unknown-kind"),
        pytest.param(
            {"position": {"kind": "rope", "settings": {"bases": 2}}}, ConfigError, "Did you mean 'base'", id="setting"
        ),
        pytest.param(
            {"position": {"kind": "rope", "settings": {"base": 0.5}}}, ConfigError, "greater than 1", id="value"
        ),
        pytest.param(
            {"position": {"kind": "none", "randomised": 99}}, ConfigError, "reads no positions", id="no-places"
        ),
        pytest.param({"position": {"kind": "rope", "randomised": 9}}, ConfigError, "is below n_ctx", id="short-range"),
        pytest.param({"position": "cope", "causal": False}, ConfigError, "left to right only", id="cope-both-ways"),
        pytest.param(
            {"position": {"kind": "t5", "settings": {"buckets": 32, "max_distance": 9}}},
            ConfigError,
            "is not above buckets / 2",
            id="buckets",
        ),
    ],
)
def test_impossible_positions_are_refused(data: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        DecoderConfig.parse(data)


def test_a_head_too_narrow_to_turn_is_refused() -> None:
    with pytest.raises(ConfigError, match="no pair"):
        Decoder(config("rope", {"d_head": 1}))


def randomised(evaluation: str = "spread", seed: int = 0) -> Decoder:
    drawn = {"largest": 50, "evaluation": evaluation}
    data = {
        "d_vocab": 7,
        "n_ctx": N_CTX,
        "d_model": MODEL,
        "seed": seed,
        "position": {"kind": "rope", "randomised": drawn},
    }
    return Decoder(DecoderConfig.parse(data))


def draws(model: Decoder, count: int = 3, size: int = 10) -> list[list[int]]:
    assert model.drawn_positions is not None
    return [model.drawn_positions(size).tolist() for _ in range(count)]


def test_drawn_positions_are_sorted_different_and_new_in_every_pass() -> None:
    found = draws(randomised(), 200)
    assert all(places == sorted(set(places)) and min(places) >= 0 and max(places) < 50 for places in found)
    assert len({tuple(places) for places in found}) == 200
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=50)
    assert 15 <= int(counts.min()) <= int(counts.max()) <= 70, "each is drawn about 40 times"


def test_draws_depend_on_the_seed_and_the_count_alone() -> None:
    torch.manual_seed(0)
    first = draws(randomised())
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert draws(randomised()) == first
    assert draws(randomised(seed=1)) != first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_training_that_goes_on_draws_what_it_would_have_drawn() -> None:
    model = randomised()
    wanted = draws(model, 5)
    stopped = randomised()
    assert draws(stopped, 2) == wanted[:2]
    other = randomised()
    other.load_state_dict(stopped.state_dict())
    assert draws(other, 3) == wanted[2:]


@pytest.mark.parametrize("evaluation", ["spread", "first", "drawn"])
def test_evaluation_reads_the_same_each_time(evaluation: str) -> None:
    model = randomised(evaluation).eval()
    first, second = draws(model, 2)
    assert first == second == sorted(set(first))
    assert (first == list(range(10))) == (evaluation == "first")


def test_spread_positions_are_the_means_of_draws() -> None:
    model = randomised()
    means = torch.tensor(draws(model, 2000, N_CTX), dtype=torch.float64).mean(0)
    spread = torch.tensor(draws(model.eval(), 1, N_CTX)[0], dtype=torch.float64)
    assert float((means - spread).abs().max()) < 1.2
    assert draws(model, 1, 5)[0] == spread[:5].tolist(), "a text is the beginning of a longer one"


def test_a_text_longer_than_the_range_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="longer than the 50 positions"):
        randomised()(torch.zeros(1, 51, dtype=torch.int64))


def test_learned_positions_may_be_drawn() -> None:
    model = Decoder(config("learned", {"position": {"kind": "learned", "randomised": 40}}))
    assert model.W_pos is not None
    assert model.W_pos.shape == (40, MODEL)
    assert bool(model(torch.zeros(1, 30, dtype=torch.int64)).isfinite().all())
