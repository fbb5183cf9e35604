"""What is shown of a policies run: every number is that of its records, and the pictures have them too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.figures.policies import _look, assignment_figure, pareto_figure
from app.report.build import render_report
from app.report.policy_sections import policy_sections
from app.views.boards import board_tables
from app.views.policies import PolicyRun
from app.views.policy_outcomes import stage_outcomes
from app.views.policy_points import AXES, curve_key, policy_title, setting_text
from app.views.policy_tables import arm_table, kind_table, point_table, verdict_table
from app.views.policy_verdicts import bar_of, pareto_front, verdicts_of, wasteful_curves
from app.views.policy_words import verdict
from circuits.policies.results import Arm, Outcome
from headscope.errors import RunError, UnsupportedError
from headscope.heads import HeadScores
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.statistics import bootstrap_scalar

ROOT = Path(__file__).resolve().parent.parent
N, LAYERS, KV_HEADS, FULL_BYTES = 6, 3, 2, 1000.0
HEADS = {
    "retrieval": np.array([[0, 1], [0, 0], [1, 1]], dtype=bool),
    "random": np.array([[1, 0], [1, 0], [0, 1]], dtype=bool),
}


def arm(policy: str, *, budget: float = float("nan"), rule: str = "", draw: int = -1) -> Arm:
    share = 0.5 if rule else float("nan")
    words = {"": "", "random": ", random heads"}.get(rule, f", heads by {rule}")
    return Arm(policy, {}, f"{policy}{words}", budget, share, rule, draw)


FULL = arm("full")
HALF, EIGHTH = arm("streaming", budget=0.5), arm("streaming", budget=0.125)
CHOSEN = arm("duo", budget=0.125, rule="retrieval")
DRAWS = tuple(arm("duo", budget=0.125, rule="random", draw=draw) for draw in range(2))
LATE = arm("snapkv", budget=0.25)
SPARSE = arm("top-keys", budget=0.25)
GOOD: dict[int, tuple[Arm, float, float, Sequence[float]]] = {
    0: (FULL, 1.0, 1.0, (1, 1, 1, 1, 1, 0)),
    1: (EIGHTH, 0.125, 0.25, (0, 0, 0, 0, 0, 0)),
    2: (HALF, 0.5, 0.75, (1, 1, 1, 0, 0, 0)),
    3: (CHOSEN, 0.5625, 0.6, (1, 1, 1, 1, 1, 0)),
    4: (DRAWS[0], 0.5625, 0.6, (1, 0, 0, 0, 0, 0)),
    5: (DRAWS[1], 0.5625, 0.6, (1, 1, 1, 0, 0, 0)),
    6: (LATE, 0.25, 0.25, (1, 1, 1, 1, 0, 1)),
    7: (SPARSE, 1.0, 0.25, (1, 1, 1, 1, 1, 1)),
}


def outcome(number: int, *, task: str = "needle", length: int = 64) -> Outcome:
    one, kept, keys, values = GOOD[number]
    is_loss = task == "text"
    numbers = np.array(values, dtype=float)
    return Outcome(
        arm=one, task=task, length=length, measure="loss" if is_loss else "accuracy",
        regime="after the prompt" if one is LATE and not is_loss else "always",
        values=3.0 - 0.01 * numbers if is_loss else numbers, kv_bytes=kept * FULL_BYTES, full_bytes=FULL_BYTES,
        attended=keys, flops=keys * 50, full_flops=50.0,
    )  # fmt: skip


STAGES = {"full": (0,), "streaming": (1, 2), "duo": (3, 4, 5), "snapkv": (6,), "top-keys": (7,)}


def write_run(
    root: Path, model: ModelRecord, scores: list[HeadScores], *, policies: Sequence[str] = tuple(STAGES), **more: object
) -> Path:
    """A policies run on two tasks; with fewer policies it is left unfinished after them."""
    names = [f"{task}.64.{name}" for task in ("needle", "text") for name in STAGES]
    config = {"policies": ["streaming", "duo", "snapkv", "top-keys"], "tasks": ["needle", "text"], "lengths": [64],
              "examples": N, "rules": ["retrieval"], "random_draws": 2, **more}  # fmt: skip
    with RunWriter.create(
        root, kind="policies", model=model, config=config, command="headscope policies made-up", seed=3,
        planned=["heads.retrieval", "heads.spans", *names], card=None,
    ) as writer:  # fmt: skip
        writer.save_scores("heads.retrieval", scores, samples={}, seconds=0.1)
        writer.save_record("heads.spans", {"kind": "policy_spans", "budgets": []}, seconds=0.1)
        for name in [name for name in names if name.split(".")[2] in policies]:
            task, _, policy = name.split(".")
            found = [outcome(number, task=task) for number in STAGES[policy]]
            record = {"kind": "policy_outcomes", "outcomes": [one.to_record() for one in found],
                      "has_heads": policy == "duo"}  # fmt: skip
            arrays = {f"values{place}": one.values for place, one in enumerate(found)}
            rules = {place: one.arm.rule for place, one in enumerate(found) if one.arm.rule}
            arrays |= {f"full_heads{place}": HEADS[rule] for place, rule in rules.items()}
            writer.save_record(name, record, tensors=arrays, seconds=0.1)
        return writer.finish(peak_memory_bytes=1) if len(policies) == len(STAGES) else writer.path


@pytest.fixture(scope="module")
def retrieval(tiny_scores: dict[str, list[HeadScores]]) -> list[HeadScores]:
    return [one for scores in tiny_scores.values() for one in scores if one.name == "retrieval"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord, retrieval: list[HeadScores]) -> Path:
    """One finished run, for reading only."""
    return write_run(tmp_path_factory.mktemp("policies"), tiny_model, retrieval)


@pytest.fixture
def found(folder: Path) -> PolicyRun:
    return PolicyRun(Run.open(folder))


def test_reading_a_policies_run_loads_no_torch() -> None:
    code = "import sys, app.report.policy_sections, app.pages.policies; print({'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_outcomes_come_back_as_they_were_written(found: PolicyRun) -> None:
    read = [one for outcomes in stage_outcomes(found.run).values() for one in outcomes]
    assert [curve_key(one.arm) for one in read[:8]] == [curve_key(GOOD[number][0]) for number in GOOD]
    for number, one in enumerate(read[:8]):
        np.testing.assert_array_equal(one.values, outcome(number).values)
        assert repr(one.arm) == repr(GOOD[number][0])  # NaN is not equal to itself
        expected = outcome(number)
        assert (one.kv_bytes, one.attended, one.regime) == (expected.kv_bytes, expected.attended, expected.regime)


def test_a_point_is_a_mean_over_prompts_with_its_paired_change(found: PolicyRun) -> None:
    by_key = {(point.arm.policy, str(point.arm.budget)): point for point in found.points("needle", 64)}
    half, full = by_key["streaming", "0.5"], by_key["full", "nan"]
    mean = bootstrap_scalar(np.array(GOOD[2][3], float), generator=np.random.default_rng(0))
    assert (half.value, half.low, half.high, half.n) == (*mean, N)
    apart = np.array(GOOD[2][3], float) - np.array(GOOD[0][3], float)
    change = bootstrap_scalar(apart, generator=np.random.default_rng(0))
    assert (half.change, half.change_low, half.change_high) == tuple(change)
    assert (full.change, full.change_low, full.change_high) == (0, 0, 0)
    assert half.shares == {"bytes": 0.5, "keys": 0.75, "flops": 0.75}


def test_random_draws_of_a_share_are_one_point_with_their_range(found: PolicyRun) -> None:
    (point,) = [point for point in found.points("needle", 64) if point.draws]
    both = np.mean([GOOD[4][3], GOOD[5][3]], axis=0)
    assert (point.draws, point.lowest, point.highest) == (2, pytest.approx(1 / 6), 0.5)
    assert point.value == pytest.approx(both.mean())
    assert len([one for one, _ in found.arms("needle", 64) if one.arm.rule == "random"]) == 2


@pytest.mark.parametrize("axis", list(AXES))
@pytest.mark.parametrize("task", ["needle", "text"])
def test_the_front_is_what_no_other_point_beats(found: PolicyRun, task: str, axis: str) -> None:
    """Of the points that save something, off the bytes axis in their own regime; no random heads, nor nothing right."""
    points, sign = found.points(task, 64), 1 if task == "needle" else -1
    expected = []
    for one in points:
        x, y = one.shares[axis], sign * one.value  # type: ignore[index]
        if x >= 1 or y == 0 or one.draws:
            continue
        rivals = [p for p in points if p is not one and (axis == "bytes" or p.regime == one.regime)]
        others = [(p.shares[axis], sign * p.value, p.draws > 0) for p in rivals]  # type: ignore[index]
        if not any(a <= x and b >= y and (drawn or (a, b) != (x, y)) for a, b, drawn in others):
            expected.append(one)
    assert list(pareto_front(found, task, 64, axis)) == expected  # type: ignore[arg-type]
    assert 0 < len(expected) < len(points)
    regimes = {one.regime for one in expected}
    assert regimes == ({"always", "after the prompt"} if task == "needle" and axis != "bytes" else regimes)


def test_random_heads_as_good_and_as_small_take_a_point_off_the_front(found: PolicyRun) -> None:
    ahead = [one.curve for one in pareto_front(found, "needle", 64, "bytes")]
    assert ahead == ["snapkv"]
    for number in (4, 5):
        found._stages["needle", 64][number] = replace(outcome(6), arm=GOOD[number][0])
    found._points.clear()
    assert pareto_front(found, "needle", 64, "bytes") == ()


def test_the_verdict_is_the_smallest_cache_that_reaches_the_bar(found: PolicyRun) -> None:
    verdicts = {one.curve: one for one in verdicts_of(found, "needle", 64)}
    assert bar_of(found, "needle", 64) == pytest.approx(0.95 * 5 / 6)
    kept = {curve: one.smallest and one.smallest.shares["bytes"] for curve, one in verdicts.items()}
    assert kept == {"streaming": None, "duo/retrieval": 0.5625, "duo/random": None, "snapkv": 0.25}
    sure = {curve: one.sure is not None for curve, one in verdicts.items()}  # snapkv loses one prompt and gains one
    assert sure == {"streaming": False, "duo/retrieval": False, "duo/random": False, "snapkv": False}
    few = {curve: one.too_few for curve, one in verdicts.items()}  # all six prompts agree: six are too few
    assert few == {"streaming": 0, "duo/retrieval": N, "duo/random": 0, "snapkv": 0}
    assert wasteful_curves(found, "needle", 64, "bytes") == ("top-keys",)
    assert {one.curve: one.smallest is not None for one in verdicts_of(found, "needle", 64, "keys")}["top-keys"]


def test_of_a_loss_less_is_better(found: PolicyRun) -> None:
    full = found.full("text", 64)
    assert full is not None
    assert bar_of(found, "text", 64) == pytest.approx(1.01 * full.value)
    found._stages["text", 64] = [replace(one, values=one.values / 1000) for one in found.outcomes("text", 64)]
    found._points.clear()
    assert bar_of(found, "text", 64) == pytest.approx(full.value / 1000 + 0.01)  # of a small loss 1 % says nothing
    assert "loss is 0.00299 (n = 6)" in verdict(found, "text", 64)
    assert {one.curve for one in verdicts_of(found, "text", 64) if one.smallest} == {
        "streaming", "duo/retrieval", "duo/random", "snapkv",
    }  # fmt: skip


def test_a_full_cache_that_gets_nothing_right_has_no_verdict(found: PolicyRun) -> None:
    nothing = [replace(one, values=np.zeros(N)) for one in found.outcomes("needle", 64)]
    found._stages["needle", 64] = nothing
    assert verdicts_of(found, "needle", 64) == ()
    assert "gets nothing right" in verdict(found, "needle", 64)


def test_heads_are_those_that_the_run_kept_over_the_score_they_were_chosen_by(
    found: PolicyRun, retrieval: list[HeadScores]
) -> None:
    keys = [(one.rule, one.share, one.draw) for one in found.assignments]
    assert keys == [("retrieval", 0.5, -1), ("random", 0.5, 0), ("random", 0.5, 1)]
    chosen, drawn = (found.assignment(found.assignments[place]) for place in (0, 1))
    np.testing.assert_array_equal(chosen.full, HEADS["retrieval"])
    np.testing.assert_array_equal(drawn.full, HEADS["random"])
    assert drawn.scores is None
    assert chosen.scores is not None
    np.testing.assert_array_equal(chosen.scores.values, retrieval[0].by_kv_head().values)


def test_a_run_without_assignments_says_so(found: PolicyRun) -> None:
    first, record = found.assignments[0], found.run.record("needle.64.duo")
    found.run.record = lambda _: record | {"has_heads": False}  # type: ignore[method-assign]
    with pytest.raises(UnsupportedError, match="does not say which heads"):
        found.assignment(first)


def test_the_tables_have_the_numbers_of_the_points(found: PolicyRun) -> None:
    rows, points = point_table(found, "needle", 64, "bytes").records(), found.points("needle", 64)
    assert [row["value"] for row in rows] == [point.value for point in points]
    assert [row["bytes"] for row in rows] == [point.kv_bytes for point in points]
    front = pareto_front(found, "needle", 64, "bytes")
    assert [row["on_front"] for row in rows] == [point in front for point in points]
    arms = arm_table(found, "needle", 64).records()
    assert [row["value"] for row in arms] == pytest.approx([np.mean(GOOD[number][3]) for number in GOOD])
    assert [row["draw"] for row in arms] == [None, None, None, None, 1, 2, None, None]
    best = {row["curve"]: row for row in verdict_table(found, "needle", 64, "bytes").records()}
    assert best["DuoAttention, heads by retrieval score"]["bytes_share"] == 0.5625
    assert best["StreamingLLM"]["bytes_share"] is None
    assert [row["name"] for row in kind_table(found).records()] == list(STAGES)


def test_settings_are_said_in_words() -> None:
    assert setting_text(CHOSEN) == "50 % of heads full, others 12.5 %"
    assert setting_text(HALF) == "50 % of the text"


def test_the_figure_has_every_point_and_tells_regimes_apart(found: PolicyRun) -> None:
    points = found.points("needle", 64)
    curves = {curve: [point for point in points if point.curve == curve] for curve in found.curves}
    full = found.full("needle", 64)
    figure = pareto_figure(
        curves,
        order=found.curves,
        measure="accuracy",
        full=full,
        bar=0.79,
        front=pareto_front(found, "needle", 64, "bytes"),
    )
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["StreamingLLM"].x) == [0.125, 0.5]
    assert list(traces["StreamingLLM"].y) == [0, 0.5]
    assert traces["StreamingLLM"].error_y.array[1] == pytest.approx(points[2].high - 0.5)
    late = next(trace for name, trace in traces.items() if "SnapKV" in name)
    assert [symbol.endswith("-open") for symbol in late.marker.symbol] == [True]
    assert not any(symbol.endswith("-open") for symbol in traces["StreamingLLM"].marker.symbol)
    band = traces["DuoAttention, range over 2 random draws"]
    assert sorted(band.y) == pytest.approx([1 / 6, 0.5])
    assert set(traces["full cache, 0.833"].y) == {full.value if full else None}
    looks = {(t.line.color, t.line.dash, t.marker.symbol[0]) for t in figure.data[1 : 1 + len(curves)]}
    assert len(looks) == len(curves)
    duo = [next(t for t in figure.data if t.name == found.title(f"duo/{rule}")) for rule in ("retrieval", "random")]
    assert duo[0].line.color == duo[1].line.color != traces["StreamingLLM"].line.color
    assert duo[0].line.dash != duo[1].line.dash == "dot"


def test_no_two_of_many_curves_look_alike() -> None:
    rules = ["", *(f"/{rule}" for rule in ("retrieval", "induction", "duo-gate", "razor", "random"))]
    known = [f"policy{number}{rule}" for number in range(16) for rule in rules]
    looks = [(*_look(curve, known)["line"].values(), _look(curve, known)["symbol"]) for curve in known]
    assert len(set(looks)) == len(known)
    colours = {curve: _look(curve, known)["line"]["color"] for curve in known}
    assert all(colours[f"policy{number}"] == colours[f"policy{number}/random"] for number in range(16))


def test_the_map_frames_the_heads_that_keep_everything(found: PolicyRun) -> None:
    chosen = found.assignment(found.assignments[0])
    figure = assignment_figure(chosen)
    assert chosen.scores is not None
    np.testing.assert_allclose(figure.data[0].z, chosen.scores.values, rtol=1e-6)
    texts = np.array(figure.data[0].text)
    np.testing.assert_array_equal(np.char.find(texts.astype(str), "full cache") >= 0, HEADS["retrieval"])
    framed = [x for x in figure.data[1].x if x is not None]
    assert len(framed) == 5 * HEADS["retrieval"].sum()


def test_the_report_says_n_regime_and_what_bytes_are(found: PolicyRun) -> None:
    sections = {section.title: section for section in policy_sections(found.run)}
    assert list(sections) == [
        "What was run", "needle, 64 tokens", "text, 64 tokens", "Heads with a full cache", "What each policy is",
    ]  # fmt: skip
    assert "after the prompt" in sections["needle, 64 tokens"].figures[0].caption
    assert "All policies drawn act from the first token on" in sections["text, 64 tokens"].figures[0].caption
    text = render_report(found.run)
    for said in ("n = 6", "not measured on a device", "intervals over the prompts", "Prompts of 64 tokens"):
        assert said in text
    told = sections["What was run"].items[0]
    assert "25.0\u00a0% of its bytes by Votes of the prompt" in told
    assert "after a prompt read in full, so its peak is a full cache: 0.833, change +0.000 [-0.500, 0.500]" in told
    assert f"by interval: too few prompts (n = {N})." in told
    assert "Random heads in place of chosen ones: on average none; 0 of 2 draws." in told
    assert "Not judged by bytes, as they drop nothing here: Top keys (IceFormer)." in told
    assert text.index(told.replace("'", "&#39;")) < text.index("cut short what attention")
    assert "No causal check was run" not in text


def test_off_the_bytes_axis_each_regime_has_a_verdict_of_its_own(found: PolicyRun) -> None:
    told = verdict(found, "needle", 64, "keys")
    assert "policies that act from the first token on: 25.0\u00a0% of the keys attended by Top keys" in told
    assert "policies that act after the prompt: 25.0\u00a0% of the keys attended by Votes of the prompt" in told
    assert "Not judged" not in told


def test_policies_alike_on_the_axis_are_all_named_and_fewest_keys_come_first(found: PolicyRun) -> None:
    rival = replace(outcome(6), arm=arm("h2o", budget=0.25), attended=0.2)
    found._stages["needle", 64].append(rival)
    told = verdict(found, "needle", 64)
    assert f"by {policy_title('h2o')} (25 % of the text)" in told
    assert f"; as little: {policy_title('snapkv')} (25 % of the text; after a prompt" in told


@pytest.mark.parametrize(
    ("lost", "n", "sure", "few"),
    [(1, 200, True, 0), (8, 200, False, 0), (0, 100, True, 0), (0, 20, False, 20)],
    ids=["loses little", "may lose more than the bar", "all of many agree", "all of few agree"],
)
def test_sure_is_where_the_interval_of_the_change_stays_within_the_bar(
    found: PolicyRun, lost: int, n: int, sure: bool, few: int
) -> None:
    """The bar allows a change of -0.05, not only of 0; where all agree, 1 - 0.025^(1/n) of others may differ."""
    values = np.ones(n)
    values[:lost] = 0
    found._stages["needle", 64] = [replace(outcome(0), values=np.ones(n)), replace(outcome(2), values=values)]
    (one,) = verdicts_of(found, "needle", 64)
    assert one.smallest is not None
    assert (one.sure is not None, one.too_few) == (sure, few)


def test_the_terminal_has_the_same_numbers(found: PolicyRun) -> None:
    tables = board_tables(found.run)
    points = next(table for table in tables if table.title.startswith("needle, 64 tokens: accuracy"))
    row = next(row for row in points.rows if row[0] == "StreamingLLM" and row[1] == "50 % of the text")
    assert row[2:6] == ("50.0\u00a0%", "75.0\u00a0%", "75.0\u00a0%", "0.500")
    least = next(table for table in tables if table.title.startswith("Smallest cache"))
    assert "Top keys (IceFormer)" in least.note


def test_an_unfinished_run_shows_what_is_in(
    tmp_path: Path, tiny_model: ModelRecord, retrieval: list[HeadScores]
) -> None:
    path = write_run(tmp_path, tiny_model, retrieval, policies=("full", "streaming"))
    found = PolicyRun(Run.open(path))
    assert found.curves == ("streaming",)
    assert not found.assignments
    assert [section.title for section in policy_sections(found.run)][-1] == "What each policy is"
    assert "INCOMPLETE" in render_report(found.run)


@pytest.mark.parametrize(
    "change", [lambda one: one.pop("arm"), lambda one: one.pop("kv_bytes"), lambda one: one.update(arm=3)],
    ids=["no arm", "no bytes", "arm is a number"],
)  # fmt: skip
def test_a_damaged_record_is_said(found: PolicyRun, change: Callable[[dict[str, object]], object]) -> None:
    record = json.loads(json.dumps(found.run.record("needle.64.full")))
    change(record["outcomes"][0])
    found.run.record = lambda _: record  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"the record 'needle\.64\.full'"):
        found.points("needle", 64)


def test_another_kind_of_run_is_refused(tiny_run: Path) -> None:
    with pytest.raises(UnsupportedError, match="of kind score, not policies"):
        PolicyRun(Run.open(tiny_run))
