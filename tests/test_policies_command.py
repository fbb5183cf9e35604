"""`headscope policies` from end to end, on a planted model: the run, its bytes, stops and bad input."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

import headscope.models
from app.cli import app as cli
from app.policies_config import Rule, TaskName
from app.report.build import render_report
from app.views.export import to_csv
from app.views.policies import PolicyRun
from circuits.policies.catalog import POLICIES as POLICY_KINDS
from headscope.models import load
from headscope.models.bridged import BridgedModel
from headscope.runs import Run, RunWriter

POLICIES = ("full", "streaming", "razor", "h2o")
SHORT = [
    *("planted:all", "--policies", "streaming,razor,h2o", "--tasks", "needle,repeated", "--lengths", "64"),
    *("--examples", "3", "--budgets", "0.25", "--shares", "0.5", "--rules", "razor", "--draws", "2"),
    *("--option", "streaming.positions=text", "--seed", "7", "--device", "cpu", "--set", "window=0.25"),
]
STAGES = ["heads.razor", *(f"{task}.64.{policy}" for task in ("needle", "repeated") for policy in POLICIES)]


def run_command(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def one_model(planted: Callable[[str], BridgedModel]) -> Iterator[None]:
    """The planted model is loaded once: loading it says nothing about the command."""

    def loaded(name: str, **more: Any) -> Any:
        return planted("all") if name == "planted:all" else load(name, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headscope.models, "load", loaded)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    """The short run when nothing stops it, and what the command printed."""
    result = run_command("policies", *SHORT, "--out", tmp_path_factory.mktemp("whole"))
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.removesuffix("\n"))), result


def test_standard_output_is_the_path_of_a_whole_run(whole: tuple[Run, Result]) -> None:
    run, result = whole
    assert result.stdout == f"{run.path}\n"
    assert run.is_complete
    assert run.manifest.kind == "policies"
    assert [stage.name for stage in run.manifest.stages] == list(run.manifest.planned) == STAGES


def test_options_end_up_in_the_settings(whole: tuple[Run, Result]) -> None:
    config = whole[0].manifest.config
    assert config["options"] == {"streaming": {"positions": "text"}}
    assert (config["lengths"], config["budgets"], config["shares"]) == ([64], [0.25], [0.5])
    assert (config["random_draws"], config["examples"], config["window"], config["seed"]) == (2, 3, 0.25, 7)


def test_every_arm_is_judged_and_none_keeps_more_than_the_full_cache(whole: tuple[Run, Result]) -> None:
    found = PolicyRun(whole[0])
    assert found.tasks == ("needle", "repeated")
    arms = [outcome.arm for outcome in found.outcomes("needle", 64)]
    assert [arm.policy for arm in arms] == ["full", "streaming", *["razor"] * 3, "h2o"]
    assert [arm.draw for arm in arms if arm.policy == "razor"] == [-1, 0, 1]
    points = found.points("needle", 64)
    assert points[0].shares["bytes"] == 1
    assert all(point.shares["bytes"] < 1 for point in points[1:])
    assert all(point.n == 3 for point in points)


def test_random_heads_are_as_many_as_those_chosen(whole: tuple[Run, Result]) -> None:
    found = PolicyRun(whole[0])
    kept = [found.assignment(arm).full for arm in found.assignments]
    assert len({int(full.sum()) for full in kept}) == 1
    assert not np.array_equal(kept[0], kept[1])


def test_the_full_cache_of_a_planted_model_finds_every_needle(whole: tuple[Run, Result]) -> None:
    full = PolicyRun(whole[0]).full("needle", 64)
    assert full is not None
    assert full.value == 1


def test_show_and_report_show_every_task(whole: tuple[Run, Result]) -> None:
    shown = run_command("show", whole[0].path)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    page = render_report(whole[0])
    for task in ("needle", "repeated"):
        assert f"{task}, 64 tokens: " in text
        assert f"<h2>{task}, 64 tokens</h2>" in page


def test_export_writes_a_row_per_arm_and_task(whole: tuple[Run, Result], tmp_path: Path) -> None:
    found = PolicyRun(whole[0])
    printed = run_command("export", whole[0].path, "-f", "json")
    rows = json.loads(printed.stdout)["arms"]
    assert [(row["task"], row["value"], row["n"]) for row in rows] == [
        (task, point.value, 3) for task in found.tasks for _, point in found.arms(task, 64)
    ]
    assert [row["bytes"] for row in rows] == [
        point.kv_bytes for task in found.tasks for _, point in found.arms(task, 64)
    ]
    assert len(rows) == 2 * 6
    for kind in ("csv", "parquet"):
        assert run_command("export", whole[0].path, "-f", kind, "--out", tmp_path / kind).exit_code == 0
    by_csv = list(csv.DictReader((tmp_path / "csv").read_text().splitlines()))
    assert [float(row["bytes_share"]) for row in by_csv] == [row["bytes_share"] for row in rows]
    assert parquet.read_table(tmp_path / "parquet").to_pylist() == rows
    assert set(json.loads((tmp_path / "csv.meta.json").read_text())["columns"]) == set(rows[0])


def test_export_of_heads_is_still_there(whole: tuple[Run, Result]) -> None:
    printed = run_command("export", whole[0].path, "--what", "heads").stdout
    assert printed == to_csv(whole[0])


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that a finished run holds but times."""
    run, found = Run.open(folder), dict[str, Any]()
    found["scores"] = (folder / "scores.parquet").read_bytes()
    for path in sorted((folder / "tensors").iterdir()):
        found[path.name] = {name: (str(one.dtype), one.shape, one.tobytes()) for name, one in load_file(path).items()}
    return found | {stage: timeless(run.record(stage)) for stage in run.records}


def timeless(record: Any) -> Any:
    """A record without the seconds that anything took."""
    if isinstance(record, dict):
        return {name: timeless(one) for name, one in record.items() if name != "seconds"}
    return [timeless(one) for one in record] if isinstance(record, list) else record


def stopped(out: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Result]:
    """The folder of a run that Ctrl-C stopped when a stage was measured but not saved, and what was printed."""

    def stopping(kept: Callable[..., Any]) -> Callable[..., Any]:
        def save(self: RunWriter, name: str, *given: Any, **more: Any) -> Any:
            if name == stage:
                raise KeyboardInterrupt
            return kept(self, name, *given, **more)

        return save

    with monkeypatch.context() as patch:
        for name in ("save_record", "save_scores"):
            patch.setattr(RunWriter, name, stopping(getattr(RunWriter, name)))
        result = run_command("policies", *SHORT, "--out", out)
    (folder,) = out.iterdir()
    return folder, result


@pytest.mark.parametrize("stage", ["needle.64.razor", "repeated.64.full"])
def test_stopped_in_a_stage_a_run_resumes_to_the_numbers_of_an_uninterrupted_one(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Run, Result]
) -> None:
    folder, result = stopped(tmp_path, stage, monkeypatch)
    done = STAGES.index(stage)
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"{done} of {len(STAGES)} stages are kept" in result.stderr
    assert f"headscope policies --resume {folder}" in result.stderr
    resumed = run_command("policies", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout == f"{folder.with_suffix('')}\n"
    assert all(f"] {before} ..." not in resumed.stderr for before in STAGES[:done])
    again, uninterrupted = numbers(folder.with_suffix("")), numbers(whole[0].path)
    assert again.keys() == uninterrupted.keys()
    for name, held in again.items():
        assert held == uninterrupted[name], name


BAD: dict[str, tuple[list[str], str]] = {
    "no model": ([], "give either a MODEL to policies or --resume RUN.*"),
    "unknown model": (["planted:al"], r"no model is called 'planted:al'. Did you mean 'planted:all'\?.*"),
    "unknown policy": (["MODEL", "--policies", "h22o"], r"no policy is called 'h22o'. Did you mean 'h2o'\?.*"),
    "policy twice": (["MODEL", "--policies", "h2o,h2o"], "the setting 'policies' cannot be .*: give each once."),
    "unknown task": (["MODEL", "--tasks", "needl"], r"'tasks' cannot hold 'needl': .* Did you mean 'needle'\?$"),
    "unknown rule": (["MODEL", "--rules", "best"], "'rules' cannot hold 'best': .* or 'induction'.$"),
    "budget above 1": (
        ["MODEL", "--budgets", "1.5"],
        "error: the setting 'budgets' cannot hold 1.5: it should be less than or equal to 1.$",
    ),
    "budget that is no number": (["MODEL", "--budgets", "a"], "--budgets.*'a'.*"),
    "window of nothing": (["MODEL", "--set", "window=0"], "'window' cannot be 0: it should be greater than 0"),
    "recent tokens below 0": (
        ["MODEL", "--policies", "streaming", "--option", "streaming.recent=0"],
        "streaming: the setting 'recent' cannot be 0",
    ),
    "unknown option": (
        ["MODEL", "--policies", "h2o", "--option", "h2o.window=3"],
        "h2o: there is no setting 'window'.*",
    ),
    "option that the budgets decide": (
        ["MODEL", "--policies", "h2o", "--option", "h2o.recent=4"],
        "h2o: the option recent=4 would have no effect: .* give budgets",
    ),
    "option of another policy": (
        ["MODEL", "--policies", "h2o", "--option", "tova.recent=3"],
        "there are options for 'tova', which is not among the policies of this run.",
    ),
    "option without a policy": (
        ["MODEL", "--option", "recent=3"],
        "--option cannot be 'recent=3': give POLICY.KEY=VALUE, such as duo.sink=16.",
    ),
    "all and one more": (["MODEL", "--policies", "all,streaming"], "'all' stands alone"),
    "nothing to compare": (["MODEL", "--policies", "full"], "the full cache is what policies are compared with"),
    "share of nothing": (["MODEL", "--shares", "0"], "'shares' cannot hold 0.0: it should be greater than 0.$"),
    "prompt longer than the context": (["MODEL", "--lengths", "100000"], "error: .*100.?000.*"),
    "no such run": (["--resume", "nothing"], "error: no run is called 'nothing'.*"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence(name: str, tmp_path: Path) -> None:
    words, said = BAD[name]
    given = ["planted:all" if word == "MODEL" else word for word in words]
    result = run_command("policies", *given, "--out", tmp_path / "runs")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert re.search(said, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_help_says_what_it_is_for() -> None:
    result = run_command("policies", "--help")
    assert result.exit_code == 0
    for word in ("MODEL", "--policies", "--budgets", "--draws", "--resume"):
        assert word in result.stdout


def test_help_names_every_policy_task_and_rule() -> None:
    said = " ".join(run_command("policies", "--help").stdout.replace("│", " ").split())
    for name in {*POLICY_KINDS, *get_args(TaskName), *get_args(Rule)} - {"full"}:
        assert re.search(rf"[ ,]{name}[ ,;.)]", said), name
