"""`headscope circuit-bench` from end to end: trials, the scoreboard, its report, stops and bad input."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import app.bench_run
import circuits.scoreboard
import headscope.models
from app.bench_config import BenchConfig
from app.cli import app as cli
from app.figures.scoreboard import method_figure, sweep_figure
from app.report.build import render_report
from app.views.benchmark import Benchmark, bench_tables
from circuits.evaluation.trials import Trial, summarise
from circuits.methods import METHODS
from headscope.errors import TaskError
from headscope.models import load
from headscope.runs import Run, RunWriter

CHOSEN = ("eap", "random")
SHORT = [
    *("trained:ioi", "--method", "random,eap", "--seeds", "5", "--examples", "4,8", "--seed", "2"),
    *("--set", "judged=2", "--set", "truth_pairs=6", "--set", 'units=["head"]'),
]
TRIALS = [f"ioi.{method}.{n}.{seed}" for n in (4, 8) for seed in range(2, 7) for method in CHOSEN]
TINY = ["--method", "random", "--seeds", "1", "--set", "truth_pairs=6", "--set", "units=[]"]
BRIEF = ["trained:ioi", "--method", "random,eap", "--seeds", "1", "--examples", "4", *TINY[4:6], "--set", "judged=2"]
BRIEF_STAGES = ["ioi.truth", "ioi.eap.4.0", "ioi.random.4.0", "scoreboard"]
STAGES = ["ioi.truth", *TRIALS, "scoreboard"]


def run_command(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Iterator[None]:
    """The trained model is loaded once."""
    kept = load("trained:ioi", device="cpu")

    def loaded(name: str, **more: Any) -> Any:
        return kept if name == "trained:ioi" else load(name, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headscope.models, "load", loaded)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    """The short benchmark when nothing stops it, and what the command printed."""
    result = run_command("circuit-bench", *SHORT, "--out", tmp_path_factory.mktemp("whole"))
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.removesuffix("\n"))), result


def test_standard_output_is_the_path_and_every_trial_is_a_stage(whole: tuple[Run, Result]) -> None:
    run, result = whole
    assert result.stdout == f"{run.path}\n"
    assert (run.manifest.kind, run.is_complete) == ("circuit-bench", True)
    assert [stage.name for stage in run.manifest.stages] == list(run.manifest.planned) == STAGES
    assert run.tensor("ioi.eap.4.2", "heads").shape == (4, 4)


def test_the_scoreboard_is_the_mean_of_the_trials_with_an_interval_over_seeds(whole: tuple[Run, Result]) -> None:
    run, bench = whole[0], Benchmark(whole[0])
    trials = [Trial.from_record(run.record(stage)["trial"]) for stage in TRIALS]
    np.testing.assert_equal([asdict(row) for row in bench.rows], [asdict(row) for row in summarise(trials)])
    (row,) = [
        r for r in bench.figure("ioi", "trained-in circuit", "head", "roc_auc") if (r.method, r.examples) == ("eap", 8)
    ]
    wanted = ("trained-in circuit", "head", "signed", "roc_auc")
    values = [
        figure.value
        for trial in trials
        if (trial.method, trial.examples) == ("eap", 8)
        for figure in trial.figures
        if (figure.truth, figure.unit, figure.ranking, figure.metric) == wanted
    ]
    assert (len(values), row.seeds, row.failed) == (5, 5, 0)
    assert row.value == pytest.approx(np.mean(values))
    assert row.worst == min(values)
    assert 0 <= row.low <= row.value <= row.high <= 1


def test_each_seed_has_prompts_and_results_of_its_own_and_the_random_baseline_is_near_chance(
    whole: tuple[Run, Result],
) -> None:
    run = whole[0]
    tables = [run.tensor(f"ioi.eap.4.{seed}", "heads") for seed in range(2, 7)]
    assert len({table.tobytes() for table in tables}) == 5
    rows = Benchmark(run).figure("ioi", "exhaustive patching", "head", "roc_auc")
    assert all(0.2 < row.value < 0.8 for row in rows if row.method == "random")


def test_show_and_report_hold_the_numbers_of_the_scoreboard(whole: tuple[Run, Result]) -> None:
    run, bench = whole[0], Benchmark(whole[0])
    tables = bench_tables(bench)
    assert [table.title for table in tables] == [
        "ioi: heads against trained-in circuit",
        "ioi: heads against exhaustive patching",
        "ioi: faithfulness (resample) of circuits of heads",
        "ioi: what it took",
    ]
    assert [row[:2] for row in tables[0].rows] == [("EAP", "4"), ("Random", "4"), ("EAP", "8"), ("Random", "8")]
    row = bench.figure("ioi", "trained-in circuit", "head", "roc_auc")[0]
    assert tables[0].rows[0][2] == f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]"
    shown = run_command("show", run.path)
    assert shown.exit_code == 0, shown.output
    page = render_report(run)
    for cell in (cell for table in tables for one in table.rows for cell in one):
        assert cell.split(" [")[0] in shown.stdout
        assert f">{cell}</t" in page
    assert len(re.findall(r'<figure class="plot" id="sweep-', page)) == 3
    assert "Circuit benchmark" in page


def test_a_figure_has_a_line_per_method_and_bars_only_where_there_are_enough_seeds(whole: tuple[Run, Result]) -> None:
    rows = Benchmark(whole[0]).figure("ioi", "trained-in circuit", "head", "roc_auc")
    drawn: Any = sweep_figure(rows, name="AUC")
    lines = drawn.data
    assert [line.name for line in lines] == ["EAP", "Random"]
    assert list(lines[0].x) == [4, 8]
    assert list(lines[0].y) == [row.value for row in rows if row.method == "eap"]
    assert list(lines[0].error_y.array) == [row.high - row.value for row in rows if row.method == "eap"]
    few = [row for row in summarise([*_trials(whole[0], seeds=(2, 3))]) if row.metric == "roc_auc"]
    assert all(math.isnan(row.low) for row in few)
    dotted: Any = method_figure([row for row in few if row.examples == 4 and row.ranking == "signed"], name="AUC")
    assert set(dotted.data[0].error_x.array) == {None}


def _trials(run: Run, seeds: tuple[int, ...]) -> list[Trial]:
    records = (run.record(stage)["trial"] for stage in TRIALS)
    return [trial for trial in map(Trial.from_record, records) if trial.seed in seeds]


def test_no_two_methods_look_the_same(whole: tuple[Run, Result]) -> None:
    (row, *_) = Benchmark(whole[0]).figure("ioi", "trained-in circuit", "head", "roc_auc")
    rows = [replace(row, method=method) for method in METHODS]
    drawn: Any = sweep_figure(rows, name="AUC")
    looks = [(line.line.color, line.line.dash) for line in drawn.data]
    assert len(set(looks)) == len(METHODS)


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that a finished benchmark holds but times."""
    run, found = Run.open(folder), dict[str, Any]()
    for path in sorted((folder / "tensors").iterdir()):
        found[path.name] = path.read_bytes()
    return found | {stage: timeless(run.record(stage)) for stage in run.records}


def timeless(record: Any) -> Any:
    """A record without the seconds that anything took."""
    if isinstance(record, dict):
        return {name: timeless(one) for name, one in record.items() if name != "seconds"}
    return [timeless(one) for one in record] if isinstance(record, list) else record


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the brief benchmark when nothing stops it."""
    result = run_command("circuit-bench", *BRIEF, "--out", tmp_path_factory.mktemp("brief"))
    assert result.exit_code == 0, result.output
    return numbers(Path(result.stdout.strip()))


@pytest.mark.parametrize("stage", BRIEF_STAGES[1:])
def test_stopped_in_a_trial_a_benchmark_resumes_to_the_same_numbers(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, Any]
) -> None:
    save, done = RunWriter.save_record, BRIEF_STAGES.index(stage)

    def stopping(self: RunWriter, name: str, *given: Any, **more: Any) -> None:
        if name == stage:
            raise KeyboardInterrupt
        save(self, name, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "save_record", stopping)
        result = run_command("circuit-bench", *BRIEF, "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"{done} of {len(BRIEF_STAGES)} stages are kept" in result.stderr
    for command in ("show", "report"):
        seen = run_command(command, folder)
        assert (seen.exit_code, "INCOMPLETE" in seen.output) == (0, True), seen.output
    if done > 1:
        assert "ioi: heads against trained-in circuit" in run_command("show", folder).stdout
    resumed = run_command("circuit-bench", "--resume", folder)
    assert (resumed.exit_code, resumed.stdout) == (0, f"{folder.with_suffix('')}\n"), resumed.output
    assert all(f"] {before} ..." not in resumed.stderr for before in BRIEF_STAGES[:done])
    np.testing.assert_equal(numbers(folder.with_suffix("")), uninterrupted)


def test_a_method_that_fails_is_a_trial_with_an_error_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discover = circuits.scoreboard.discover

    def failing(anatomy: Any, batch: Any, method: str, *given: Any, **more: Any) -> Any:
        if method == "eap" and more["seed"] == 1:
            raise TaskError("no <b> luck")
        return discover(anatomy, batch, method, *given, **more)

    monkeypatch.setattr(circuits.scoreboard, "discover", failing)
    words = ["--method", "eap,random", "--seeds", "2", "--examples", "4", "--set", "truth_pairs=6", "--set", "units=[]"]
    result = run_command("circuit-bench", "trained:ioi", *words, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    bench = Benchmark(Run.open(Path(result.stdout.strip())))
    assert bench.errors == (("ioi.eap.4.1", "no <b> luck"),)
    (eap, *_) = bench.figure("ioi", "trained-in circuit", "head", "roc_auc")
    assert (eap.seeds, eap.failed) == (1, 1)
    table = bench_tables(bench)[0]
    assert table.rows[0][-1] == "1, 1 without a number"
    page = render_report(bench.run)
    assert "no &lt;b&gt; luck" in page
    assert "no <b> luck" not in page


def test_tasks_that_the_model_cannot_do_are_left_out_and_said(tmp_path: Path) -> None:
    words = [*TINY, "--examples", "4"]
    result = run_command("circuit-bench", "trained:ioi", "--tasks", "docstring,ioi", *words, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(r"^docstring left out: docstring needs at least .* has \d+\.", result.stderr, re.MULTILINE)
    assert Benchmark(Run.open(Path(result.stdout.strip()))).tasks == ("ioi",)
    none = run_command("circuit-bench", "trained:ioi", "--tasks", "docstring,greater-than", *words, "--out", tmp_path)
    assert (none.exit_code, none.stdout) == (2, "")
    assert none.stderr.splitlines()[-1] == "error: 'trained:ioi' does none of these tasks: docstring, greater-than."


def test_all_methods_but_those_that_run_once_per_edge_are_taken_unless_some_are_named() -> None:
    assert BenchConfig(model="m").chosen == tuple(name for name in METHODS if name != "path-patching")
    assert BenchConfig(model="m", methods=("random", "path-patching")).chosen == ("path-patching", "random")


BAD: dict[str, tuple[list[str], str]] = {
    "no model": ([], "give either a MODEL to circuit-bench or --resume RUN.*"),
    "unknown task": (["trained:ioi", "--tasks", "ioi,ioii"], r"no task is called 'ioii'. Did you mean 'ioi'\?.*"),
    "task twice": (["trained:ioi", "--tasks", "ioi,ioi"], "the setting 'tasks' cannot be .*: give each once."),
    "unknown method": (["trained:ioi", "--method", "eapp"], r"no circuit method is called 'eapp'.*"),
    "option of another method": (
        ["trained:ioi", "--method", "eap", "--option", "cdt.batch_size=3"],
        "there are options for 'cdt', which is not among the methods of this benchmark.",
    ),
    "unknown option": (
        ["trained:ioi", "--method", "eap", "--option", "eap.stepz=3"],
        "eap: there is no setting 'stepz'.*",
    ),
    "one example": (
        ["trained:ioi", "--examples", "1"],
        "the setting 'examples' cannot hold 1: it should be greater than or equal to 2\\.",
    ),
    "examples in words": (
        ["trained:ioi", "--examples", "few"],
        "--examples cannot be 'few': give numbers with commas, such as 256,512.",
    ),
    "no seeds": (["trained:ioi", "--seeds", "0"], "Invalid value for '--seeds': .*"),
    "no names": (
        ["planted:induction", "--method", "eap"],
        "ioi needs at least 8 names that are single tokens; the tokenizer of 'planted:induction' has 0.*",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_no_folder(case: str, tmp_path: Path) -> None:
    given, message = BAD[case]
    result = run_command("circuit-bench", *given, "--out", tmp_path / "runs")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    *before, line = result.stderr.splitlines()
    assert re.fullmatch(f"error: {message}", line), line
    assert all(re.match(r"load( \.\.\.|: \d)", one) for one in before), before
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def few_prompts(monkeypatch: pytest.MonkeyPatch, most: int, advice: str = "too many") -> None:
    """Make the task refuse more than so many pairs."""
    build: Callable[..., Any] = app.bench_run.build_contrast

    def few(task: str, model: Any, *, n: int, generator: Any) -> Any:
        if n > most:
            raise TaskError(advice)
        return build(task, model, n=n, generator=generator)

    monkeypatch.setattr(app.bench_run, "build_contrast", few)


def test_more_pairs_than_the_task_has_are_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_prompts(monkeypatch, 100, "101 pairs of ioi were asked for, and there are 100.")
    result = run_command("circuit-bench", "trained:ioi", *TINY, "--examples", "4,101", "--out", tmp_path / "runs")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "error: 101 pairs of ioi were asked for, and there are 100."
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_where_no_prompt_is_left_to_judge_on_the_trial_says_so_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(batch: Any, seen: Any) -> Any:
        if len(seen) == 6:
            raise TaskError("all were seen")
        return batch

    monkeypatch.setattr(circuits.scoreboard, "apart", none_left)
    words = [word for word in TINY if word != "units=[]"] + ['units=["head"]']
    result = run_command(
        "circuit-bench", "trained:ioi", *words, "--set", "judged=2", "--examples", "4,6", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    bench = Benchmark(Run.open(Path(result.stdout.strip())))
    assert bench.errors == (("ioi.random.6.0", "all were seen"),)
    assert [row.examples for row in bench.figure("ioi", "faithfulness (resample)", "head", "cpr")] == [4]
