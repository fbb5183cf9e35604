"""Figures: what is drawn is what the data says, at the right place and under the right name."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from app.figures.agreement import agreement_figure
from app.figures.causal import causal_figure
from app.figures.head_map import LARGEST_HEATMAP, head_map_figure
from app.figures.outlines import outline_traces
from app.figures.overlap import overlap_figure
from app.figures.style import CONFIG, escape, number_ticks
from app.figures.top_heads import top_heads_figure
from app.views.agreement import score_agreement
from app.views.classes import head_classes
from app.views.heads import top_heads
from app.views.overlap import class_overlap
from headscope.checks import CausalCheck
from headscope.heads import Head, HeadScores, ScoreDefinition

_HOVER = re.compile(r"^L(\d+)H(\d+)  (\S+) (\S+) (\[.*\]|exact)  n=(\d+)  \(kv head (\d+)\)$")
DEFINITION = ScoreDefinition(
    name="retrieval",
    title="Retrieval score",
    unit="share of copied tokens",
    formula="f",
    source="s",
    reading="r",
    probe="retrieval",
    threshold=0.5,
    head_class="retrieval",
)


def _scores(n_layers: int = 5, n_heads: int = 8, *, seed: int = 0) -> HeadScores:
    """Every head has another value, so that a cell at the wrong place is found out."""
    order = np.random.default_rng(seed).permutation(n_layers * n_heads)
    values = (order / order.size).reshape(n_layers, n_heads)
    n = 100 + np.arange(order.size).reshape(n_layers, n_heads)
    return HeadScores(DEFINITION, "m", values, values - 0.01, values + 0.01, n, n_heads // 2)


def _trace(figure: go.Figure, kind: type) -> Any:
    return next(trace for trace in figure.data if isinstance(trace, kind))


def test_hover_text_names_the_head_of_its_cell_with_its_value_n_and_kv_head() -> None:
    scores = _scores()
    heat = _trace(head_map_figure(scores), go.Heatmap)
    for row, layer in enumerate(heat.y):
        for column, head in enumerate(heat.x):
            match = _HOVER.match(heat.text[row][column])
            assert match is not None
            assert (int(match[1]), int(match[2]), match[3]) == (layer, head, "retrieval")
            assert float(match[4]) == pytest.approx(float(heat.z[row][column]), abs=5e-4)
            assert float(match[4]) == pytest.approx(scores.values[layer, head], abs=5e-4)
            ends = [scores.low[layer, head], scores.high[layer, head]]
            assert json.loads(match[5]) == pytest.approx(ends, abs=5e-4)
            assert int(match[6]) == scores.n[layer, head]
            assert int(match[7]) == head // 2


def test_the_map_is_as_wide_as_there_are_heads_and_as_high_as_there_are_layers() -> None:
    heat = _trace(head_map_figure(_scores(5, 8)), go.Heatmap)
    assert np.shape(heat.z) == (5, 8)
    assert (len(heat.y), len(heat.x)) == (5, 8)


def test_layer_0_is_on_top_and_both_axes_are_numbers() -> None:
    figure = head_map_figure(_scores())
    assert list(figure.layout.yaxis.range) == [4.5, -0.5]
    assert list(figure.layout.xaxis.range) == [-0.5, 7.5]
    assert np.issubdtype(_trace(figure, go.Heatmap).x.dtype, np.integer)
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("layer", "head")


def test_outlines_frame_the_heads_of_the_class_and_no_other() -> None:
    scores = _scores()
    outline = next(trace for trace in head_map_figure(scores).data if isinstance(trace, go.Scatter))
    corners = zip(outline.x, outline.y, strict=True)
    framed = {Head(round(y), round(x)) for x, y in corners if x is not None}
    assert framed == set(scores.members())
    assert framed == {Head(int(a), int(b)) for a, b in np.argwhere(scores.values >= 0.5)}


def test_without_a_threshold_nothing_is_outlined() -> None:
    scores = _scores()
    bare = replace(scores, definition=replace(DEFINITION, threshold=None, head_class=None))
    assert [type(trace) for trace in head_map_figure(bare).data] == [go.Heatmap]
    assert outline_traces([]) == []


def test_a_value_without_sampling_error_reads_exact() -> None:
    scores = _scores()
    nothing = np.full_like(scores.values, np.nan)
    heat = _trace(head_map_figure(replace(scores, low=nothing, high=nothing)), go.Heatmap)
    assert " exact  n=" in heat.text[0][0]


def test_the_colour_bar_has_the_unit_and_the_scale_is_viridis_from_zero() -> None:
    heat = _trace(head_map_figure(_scores()), go.Heatmap)
    assert heat.colorbar.title.text == "share of copied tokens"
    assert heat.colorscale[0][1] == "#440154"
    assert heat.zmin == 0


def test_a_score_of_both_signs_is_purple_and_orange_around_zero() -> None:
    scores = _scores()
    heat = _trace(head_map_figure(replace(scores, values=scores.values - 0.6)), go.Heatmap)
    assert heat.zmin == -heat.zmax
    assert heat.colorscale[0][1] == "rgb(127,59,8)"


def test_scores_plot_themselves_as_this_map() -> None:
    scores = _scores()
    assert scores.plot() == head_map_figure(scores)


def test_text_from_outside_is_drawn_letter_by_letter() -> None:
    assert escape("<b>x</b> & <script>\n") == "&lt;b&gt;x&lt;/b&gt; &amp; &lt;script&gt;"
    scores = replace(_scores(), definition=replace(DEFINITION, name="<i>evil</i>", unit="<a href='x'>u</a>"))
    figure = head_map_figure(scores)
    heat = _trace(figure, go.Heatmap)
    for text in (heat.text[0][0], heat.colorbar.title.text):
        assert "<" not in text
    assert "&lt;i&gt;evil&lt;/i&gt;" in heat.text[0][0]


def _picture(figure: go.Figure) -> np.ndarray:
    source = _trace(figure, go.Image).source
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_map_beyond_256_is_a_png_with_a_pixel_per_head() -> None:
    scores = _scores(LARGEST_HEATMAP + 1, 4)
    scores.values[7, 2] = np.nan
    picture = _picture(head_map_figure(scores))
    assert picture.shape == (LARGEST_HEATMAP + 1, 4, 4)
    layer, head = scores.ranked()[0]
    brightest = [round(part) for part in unlabel_rgb(sample_colorscale("Viridis", [1.0])[0])]
    assert picture[layer, head].tolist() == [*brightest, 255]
    assert picture[7, 2, 3] == 0
    assert (picture[..., 3] == 0).sum() == 1


def test_a_map_of_256_is_still_a_heatmap() -> None:
    assert isinstance(head_map_figure(_scores(LARGEST_HEATMAP, 2)).data[0], go.Heatmap)


@pytest.mark.parametrize("count", [1, 9, 30, 80, 257, 4096])
def test_ticks_are_few_whole_numbers_inside_the_axis(count: int) -> None:
    ticks = number_ticks(count)
    assert len(ticks) <= 16
    assert ticks[0] == 0
    assert ticks[-1] < count


def test_top_heads_stand_in_order_with_their_intervals() -> None:
    scores = _scores()
    rows = top_heads(scores, 4)
    figure = top_heads_figure(rows, DEFINITION)
    trace = figure.data[0]
    assert list(trace.x) == [row.value for row in rows]
    assert list(figure.layout.yaxis.ticktext) == [row.label for row in rows]
    assert list(np.array(trace.x) - trace.error_x.arrayminus) == pytest.approx([row.low for row in rows])
    assert list(np.array(trace.x) + trace.error_x.array) == pytest.approx([row.high for row in rows])
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5]


def test_heads_outside_the_class_are_open_points() -> None:
    rows = top_heads(_scores(), 40)
    symbols = top_heads_figure(rows, DEFINITION).data[0].marker.symbol
    assert [symbol == "circle" for symbol in symbols] == [row.is_member for row in rows]


def test_no_head_at_all_is_an_empty_figure_not_an_error() -> None:
    assert list(top_heads_figure([], DEFINITION).data[0].x) == []


def test_the_causal_figure_shows_every_draw_the_mean_the_class_and_the_baseline(
    tiny_checks: list[CausalCheck],
) -> None:
    check = tiny_checks[0]
    figure = causal_figure(check)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    drawn = sorted(traces["each random draw"].y)
    assert drawn == sorted(value for point in check.points for value in point.random_values)
    assert list(traces["random heads, mean"].y) == [point.random_mean for point in check.points]
    curve = traces[f"strongest {check.head_class} heads"]
    assert list(curve.y) == [point.value for point in check.points]
    assert [shape.y0 for shape in figure.layout.shapes] == [check.baseline]
    assert list(figure.layout.xaxis.ticktext) == [str(point.k) for point in check.points]
    assert list(curve.x) == [0, 1]


def test_each_draw_stands_at_its_own_k(tiny_checks: list[CausalCheck]) -> None:
    check = tiny_checks[0]
    draws = next(trace for trace in causal_figure(check).data if trace.name == "each random draw")
    for x, y in zip(draws.x, draws.y, strict=True):
        assert y in check.points[round(x)].random_values


def test_bands_are_the_intervals(tiny_checks: list[CausalCheck]) -> None:
    check = tiny_checks[0]
    bands = [trace for trace in causal_figure(check).data if trace.fill == "toself"]
    random, by_class = [sorted(band.y) for band in bands]
    assert random == sorted(end for point in check.points for end in (point.random_low, point.random_high))
    assert by_class == sorted(end for point in check.points for end in (point.low, point.high))


def test_rank_agreement_is_centred_at_zero_with_its_number_in_each_cell() -> None:
    scores = [
        replace(_scores(seed=seed), definition=replace(DEFINITION, name=f"s{seed}", title=f"S{seed}"))
        for seed in range(3)
    ]
    agreement = score_agreement(scores)
    heat = agreement_figure(agreement).data[0]
    assert (heat.zmin, heat.zmax) == (-1, 1)
    assert heat.colorscale[0][1] == "rgb(127,59,8)"
    assert [[float(cell) for cell in row] for row in heat.text] == [
        pytest.approx(row, abs=5e-3) for row in agreement.rho.tolist()
    ]
    assert heat.hovertext[0][2].startswith("S0 and S2: rho = ")


def test_overlap_cells_hold_the_counts_and_the_diagonal_the_sizes() -> None:
    scores = [
        replace(_scores(seed=seed), definition=replace(DEFINITION, name=name, head_class=name))
        for seed, name in enumerate(("a", "b"))
    ]
    overlap = class_overlap(head_classes(scores))
    heat, diagonal = overlap_figure(overlap).data
    assert heat.text[0][1] == heat.text[1][0] == str(overlap.counts[0, 1])
    assert list(diagonal.text) == [str(count) for count in np.diag(overlap.counts)]
    assert f"{overlap.counts[0, 1]} heads in both" in heat.hovertext[0][1]


def test_no_figure_offers_to_send_the_data_away() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["displaylogo"] is False


def test_figures_have_no_background_and_text_that_light_and_dark_pages_can_carry(
    tiny_checks: list[CausalCheck],
) -> None:
    for figure in (head_map_figure(_scores()), causal_figure(tiny_checks[0])):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        grey = int(figure.layout.font.color[1:3], 16) / 255
        light = ((grey + 0.055) / 1.055) ** 2.4
        assert min(1.05 / (light + 0.05), (light + 0.05) / 0.05) > 4.5
