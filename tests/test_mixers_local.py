"""Fixed masks, streaming heads and block summaries: pictures of the masks, limiting cases, and what decoding keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape

LENGTH = 8


def mixer(kind: str, *, heads: int = 2, layer: int = 0, layers: int = 1, **settings: Any) -> Mixer:
    shape = MixerShape(heads, 4, 4, 16, 32, layer=layer, n_layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_mixer(kind, shape, settings).double()


def masked(*patterns: tuple[dict[str, Any], ...], **more: Any) -> Mixer:
    return mixer("masked", patterns=patterns, **more)


def random_input(length: int = LENGTH, *, heads: int = 2, causal: bool = True, seed: int = 0) -> MixerInput:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, heads, length, 4, generator=generator, dtype=torch.float64)
    return MixerInput(query, key, value, scale=0.5, causal=causal)


def matrix(of: Mixer, given: MixerInput) -> Tensor:
    with torch.no_grad():
        return of.mix(given).matrix


def full(given: MixerInput) -> Tensor:
    return given.scores.masked_fill(~given.visible, -torch.inf).softmax(-1)


def picture(of: Mixer, *, head: int = 0, causal: bool = True, length: int = LENGTH) -> list[str]:
    """Which cells of a head are not 0."""
    cells = matrix(of, random_input(length, causal=causal))[0, head]
    return ["".join("x" if cell > 0 else "." for cell in row) for row in cells]


PICTURES = {
    "window": (
        {"kind": "window", "size": 3},
        "x....... xx...... xxx..... .xxx.... ..xxx... ...xxx.. ....xxx. .....xxx",
    ),
    "dilated": (
        {"kind": "window", "size": 3, "dilation": 2},
        "x....... .x...... x.x..... .x.x.... x.x.x... .x.x.x.. ..x.x.x. ...x.x.x",
    ),
    "first": ({"kind": "first", "count": 2}, "x....... xx...... xxx..... xx.x.... xx..x... xx...x.. xx....x. xx.....x"),
    "stride": (
        {"kind": "stride", "size": 3},
        "x....... .x...... ..x..... x..x.... .x..x... ..x..x.. x..x..x. .x..x..x",
    ),
    "block-ends": (
        {"kind": "block_ends", "size": 3, "count": 1},
        "x....... .x...... ..x..... ..xx.... ..x.x... ..x..x.. ..x..xx. ..x..x.x",
    ),
    "block": ({"kind": "block", "size": 3}, "x....... xx...... xxx..... ...x.... ...xx... ...xxx.. ......x. ......xx"),
    "block-halo": (
        {"kind": "block", "size": 3, "halo": 2},
        "x....... xx...... xxx..... .xxx.... .xxxx... .xxxxx.. ....xxx. ....xxxx",
    ),
    "block-shift": (
        {"kind": "block", "size": 4, "shift": 2},
        "x....... xx...... ..x..... ..xx.... ..xxx... ..xxxx.. ......x. ......xx",
    ),
    "segment": (
        {"kind": "dilated_segment", "size": 4, "dilation": 2},
        "x....... .x...... x.x..... ...x.... ....x... .....x.. ....x.x. .......x",
    ),
    "sampled": (
        {"kind": "sampled", "size": 2, "halo": 2, "factor": 2},
        "x....... .x...... ..x..... ...x.... x...x... x....x.. x.x...x. x.x....x",
    ),
    "neighbourhood": (
        {"kind": "neighbourhood", "window": 4, "stride": 2},
        "x....... xx...... xxx..... xxxx.... ..xxx... ..xxxx.. ....xxx. ....xxxx",
    ),
    "blocked-neighbourhood": (
        {"kind": "neighbourhood", "window": 4, "stride": 4},
        "x....... xx...... xxx..... xxxx.... ....x... ....xx.. ....xxx. ....xxxx",
    ),
}
BOTH_WAYS = {
    "window": (
        {"kind": "window", "size": 2},
        "xx...... xxx..... .xxx.... ..xxx... ...xxx.. ....xxx. .....xxx ......xx",
    ),
    "first": ({"kind": "first", "count": 1}, "xxxxxxxx xx...... x.x..... x..x.... x...x... x....x.. x.....x. x......x"),
    "block-halo": (
        {"kind": "block", "size": 4, "halo": 1},
        "xxxxx... xxxxx... xxxxx... xxxxx... ...xxxxx ...xxxxx ...xxxxx ...xxxxx",
    ),
    "neighbourhood": (
        {"kind": "neighbourhood", "window": 3, "stride": 1},
        "xxx..... xxx..... .xxx.... ..xxx... ...xxx.. ....xxx. .....xxx .....xxx",
    ),
    "strided-neighbourhood": (
        {"kind": "neighbourhood", "window": 4, "stride": 2},
        "xxxx.... xxxx.... .xxxx... .xxxx... ...xxxx. ...xxxx. ....xxxx ....xxxx",
    ),
    "left": (
        {"kind": "look", "side": "left"},
        "x....... xx...... xxx..... xxxx.... xxxxx... xxxxxx.. xxxxxxx. xxxxxxxx",
    ),
    "right": (
        {"kind": "look", "side": "right"},
        "xxxxxxxx .xxxxxxx ..xxxxxx ...xxxxx ....xxxx .....xxx ......xx .......x",
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_mask_read_left_to_right_shows_these_cells(name: str) -> None:
    part, cells = PICTURES[name]
    assert picture(masked((part,))) == cells.split()


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_mask_read_both_ways_shows_these_cells(name: str) -> None:
    part, cells = BOTH_WAYS[name]
    assert picture(masked((part,)), causal=False) == cells.split()


def test_the_second_head_takes_the_other_tokens_of_a_dilated_segment() -> None:
    part = {"kind": "dilated_segment", "size": 4, "dilation": 2}
    cells = "x....... .x...... ..x..... .x.x.... ....x... .....x.. ......x. .....x.x"
    assert picture(masked((part,)), head=1) == cells.split()


def test_parts_are_joined_and_heads_are_shared_out_in_order() -> None:
    both = masked(({"kind": "window", "size": 2}, {"kind": "first"}), ({"kind": "stride", "size": 2},), heads=4)
    given = random_input(heads=4)
    streaming = "x....... xx...... xxx..... x.xx.... x..xx... x...xx.. x....xx. x.....xx"
    seen = [["".join("x" if cell > 0 else "." for cell in row) for row in head] for head in matrix(both, given)[0]]
    assert seen[0] == seen[1] == streaming.split()
    assert seen[2] == seen[3] == picture(masked(({"kind": "stride", "size": 2},)))


def test_staggered_blocks_move_by_half_in_odd_layers() -> None:
    patterns = (({"kind": "block", "size": 4, "stagger": True},),)
    even, odd = (mixer("masked", patterns=patterns, layer=layer, layers=2) for layer in (0, 1))
    assert picture(even) == picture(masked(({"kind": "block", "size": 4},)))
    assert picture(odd) == picture(masked(({"kind": "block", "size": 4, "shift": 2},)))


WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("masked", {"patterns": (({"kind": "all"},),)}),
    "long-window": ("masked", {"patterns": (({"kind": "window", "size": LENGTH},),)}),
    "many-sinks": ("masked", {"patterns": (({"kind": "first", "count": LENGTH},),)}),
    "stride-of-one": ("masked", {"patterns": (({"kind": "stride", "size": 1},),)}),
    "ends-of-blocks-of-one": ("masked", {"patterns": (({"kind": "block_ends", "size": 1},),)}),
    "one-block": ("masked", {"patterns": (({"kind": "block", "size": LENGTH},),)}),
    "one-segment": ("masked", {"patterns": (({"kind": "dilated_segment", "size": LENGTH},),)}),
    "all-random-blocks": (
        "masked",
        {"patterns": (({"kind": "random", "size": 2, "count": 4}, {"kind": "block", "size": 2}),)},
    ),
    "wide-neighbourhood": ("masked", {"patterns": (({"kind": "neighbourhood", "window": 16, "stride": 8},),)}),
    "gated-long-window": ("gated-streaming", {"window": LENGTH}),
    "compensated-long-window": ("compensated", {"window": LENGTH, "full_heads": 0}),
    "compensated-full-heads": ("compensated", {"full_heads": 2}),
    "means-of-blocks-of-one": ("block-summaries", {"block": 1, "window": 1}),
    "latents-of-blocks-of-one": ("block-summaries", {"block": 1, "near": "block", "summary": "latents"}),
    "one-summarised-block": ("block-summaries", {"block": LENGTH, "near": "block", "summary": "latents"}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_where_everything_is_seen_it_is_softmax(name: str) -> None:
    kind, settings = WHOLE[name]
    given = random_input()
    torch.testing.assert_close(matrix(mixer(kind, **settings), given), full(given))


MASKS: dict[str, tuple[tuple[dict[str, Any], ...], Any]] = {
    "window-and-sinks": (
        ({"kind": "window", "size": 5}, {"kind": "first", "count": 2}),
        lambda _b, _h, i, j: (i >= j) & ((i - j < 5) | (j < 2)),
    ),
    "strided": (({"kind": "stride", "size": 4},), lambda _b, _h, i, j: (i >= j) & ((i - j) % 4 == 0)),
    "blocks": (({"kind": "block", "size": 6},), lambda _b, _h, i, j: (i >= j) & (i // 6 == j // 6)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MASKS)
def test_it_is_flex_attention_under_the_same_mask(name: str) -> None:
    parts, rule = MASKS[name]
    given = random_input(24)
    given = replace(given, query=given.query.float(), key=given.key.float(), value=given.value.float())
    mask = create_block_mask(rule, None, None, 24, 24, device="cpu")
    z: Any = flex_attention(given.query, given.key, given.value, block_mask=mask, scale=given.scale)
    torch.testing.assert_close(masked(parts).mix(given).z, z, atol=1e-5, rtol=1e-5)


def test_overlapping_parts_are_softmaxes_averaged_by_their_denominators() -> None:
    given, z, total = random_input(16), 0, 0
    rows, columns, pairs = torch.arange(16)[:, None], torch.arange(16), ((4, 1), (8, 2), (16, 4))
    parts = [{"kind": "dilated_segment", "size": size, "dilation": apart} for size, apart in pairs]
    for size, apart in pairs:
        for head in range(2):
            taken = columns % size % apart == head % apart
            seen = taken[:, None] & taken & (rows // size == columns // size) & given.visible
            weights = given.scores.exp() * seen * (torch.arange(2) == head)[:, None, None]
            total = total + weights.sum(-1, keepdim=True)
            z = z + weights @ given.value  # the part's softmax times its denominator
    torch.testing.assert_close(masked(tuple(parts), overlap="each").mix(given).z, z / total)


def test_slopes_fall_with_the_distance_up_to_a_cap_and_with_the_layers() -> None:
    given, all_seen = random_input(), (({"kind": "all"},), ({"kind": "all"},))
    distance = given.offsets.double().abs()
    for layer, factor in ((0, 1.5), (1, 1.0), (2, 0.5)):
        settings: dict[str, Any] = {"slopes": (0.5, 0.25), "slope_by_layer": (1.5, 0.5), "slope_cap": 3}
        sloped = mixer("masked", patterns=all_seen, layer=layer, layers=3, **settings)
        slopes = torch.tensor([0.5, 0.25], dtype=torch.float64)[:, None, None] * factor
        wanted = full(replace(given, bias=-(slopes * distance.clamp(max=3))[None]))
        torch.testing.assert_close(matrix(sloped, given), wanted)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_random_blocks_are_so_many_for_each_block_and_depend_on_the_seed(causal: bool) -> None:
    seen = {
        seed: picture(masked(({"kind": "random", "size": 4, "count": 2, "seed": seed},)), causal=causal, length=24)
        for seed in (0, 1)
    }
    assert seen[0] != seen[1]
    for row, cells in enumerate(seen[0]):
        own = row // 4
        drawn = [block for block in range(6) if block != own and cells[4 * block : 4 * block + 4] == "xxxx"]
        assert len(drawn) == (min(2, own) if causal else 2)
        assert sum(cell == "x" for cell in cells) == 4 * len(drawn) + 1
        assert not causal or all(block < own for block in drawn)


def test_a_longer_text_draws_the_same_random_blocks() -> None:
    drawn = masked(({"kind": "random", "size": 2, "count": 1},))
    short, long = picture(drawn, length=8), picture(drawn, length=16)
    assert [row[:8] for row in long[:8]] == short


def test_two_heads_draw_different_random_blocks() -> None:
    drawn = masked(({"kind": "random", "size": 2, "count": 1},))
    assert picture(drawn, head=0, length=24) != picture(drawn, head=1, length=24)


def test_decoding_keeps_the_window_and_no_more() -> None:
    windowed = masked(({"kind": "window", "size": 8}, {"kind": "first", "count": 2}))
    assert [windowed.state_size(length) for length in (1, 5, 9, 10, 1000)] == [1 + 16 * n for n in (1, 5, 9, 9, 9)]


def test_heads_that_share_keys_keep_what_any_of_them_will_see() -> None:
    shape = MixerShape(4, 4, 3, 16, 32, key_heads=1, value_heads=2)
    patterns = (({"kind": "window", "size": 3},), ({"kind": "window", "size": 6},))
    shared = build_mixer("masked", shape, {"patterns": patterns})
    assert shared.state_size(100) == 1 + 5 * 3 + (2 + 5) * 4


def test_decoding_takes_a_bias_of_positions() -> None:
    given, windowed = random_input(), masked(({"kind": "window", "size": 3},))
    bias = torch.randn(1, 2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted, state, rows = windowed.mix(replace(given, bias=bias)).z, windowed.start(given.token(0)), []
    for at in range(LENGTH):
        one = given.token(at)
        object.__setattr__(one, "bias", bias[:, :, at, None, : at + 1])  # its columns are all tokens so far
        z, state = windowed.step(state, one)
        rows.append(z)
    torch.testing.assert_close(torch.cat(rows, 2), wanted)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patterns": (({"kind": "all"},),) * 3}, "3 mask patterns need as many heads: there are 2"),
        ({"slopes": (0.5, 0.5)}, "2 slopes are given for 1 mask patterns"),
        ({"patterns": (({"kind": "neighbourhood", "window": 2, "stride": 4},),)}, "stride 4 is larger than window 2"),
        ({"patterns": ()}, "patterns"),
        ({"patterns": (({"kind": "windows"},),)}, "windows"),
    ],
    ids=["patterns", "slopes", "stride", "none", "kind"],
)
def test_impossible_masks_are_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mixer("masked", **settings)


@pytest.mark.parametrize(("gate", "window"), [(40.0, LENGTH), (-40.0, 3)], ids=["open", "closed"])
def test_a_gate_at_its_end_is_full_or_streaming_attention(gate: float, window: int) -> None:
    given = random_input()
    gated = mixer("gated-streaming", first=1, window=3, gate=gate)
    streaming = masked(({"kind": "window", "size": window}, {"kind": "first"}))
    torch.testing.assert_close(matrix(gated, given), matrix(streaming, given))


def test_where_dropped_keys_are_alike_the_compensation_token_loses_nothing() -> None:
    given = random_input()
    given = replace(given, key=given.key[:, :, :1].expand(-1, -1, LENGTH, -1).clone())
    torch.testing.assert_close(matrix(mixer("compensated", window=2, full_heads=0), given), full(given))


def test_dropped_tokens_share_what_their_mean_gets() -> None:
    given = random_input()
    cells = matrix(mixer("compensated", first=1, window=2, full_heads=1), given)
    torch.testing.assert_close(cells[:, 0], full(given)[:, 0])
    dropped = cells[:, 1, -1, 1 : LENGTH - 2]
    torch.testing.assert_close(dropped, dropped[:, :1].expand_as(dropped))


def test_a_summary_hands_its_share_to_its_block_evenly_if_it_is_the_mean() -> None:
    cells = matrix(mixer("block-summaries", block=4, window=1), random_input(12))
    early = cells[:, :, 8:, :8].unflatten(-1, (2, 4))
    torch.testing.assert_close(early, early[..., :1].expand_as(early))
    assert bool((cells[:, :, 5:8, 4:5] == 0).all()), "the own block's mean is not seen"


def test_summaries_keep_so_much() -> None:
    means = mixer("block-summaries", block=4, window=3)
    latents = mixer("block-summaries", block=4, near="block", summary="latents", latents=2)
    assert [means.state_size(length) // 16 for length in (3, 4, 7, 8, 41)] == [3, 3, 6, 4, 13]
    assert [latents.state_size(length) // 16 for length in (3, 4, 7, 8, 41)] == [3, 2, 5, 4, 21]
