"""Writing a run: what goes in comes out to the last bit, and what does not belong in it is refused."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headscope.card import CapabilityCard
from headscope.checks import CausalCheck
from headscope.errors import RunError
from headscope.heads import HeadScores
from headscope.runs import ModelRecord, Run, RunWriter, list_runs
from headscope.runs.files import record_of, write_file

Start = Callable[[Path], RunWriter]
Fill = Callable[[RunWriter], None]
Compare = Callable[[HeadScores, HeadScores], None]
Scores = dict[str, list[HeadScores]]


def test_scores_checks_samples_and_card_come_back_to_the_last_bit(
    tiny_run: Path,
    tiny_scores: Scores,
    tiny_samples: dict[str, np.ndarray],
    tiny_checks: list[CausalCheck],
    tiny_card: CapabilityCard,
    assert_same_scores: Compare,
) -> None:
    run = Run.open(tiny_run)
    given = {score.name: score for part in tiny_scores.values() for score in part}
    assert list(run.scores()) == list(given)
    for name, score in run.scores().items():
        assert_same_scores(score, given[name])
        assert np.array_equal(run.samples(name), tiny_samples[name], equal_nan=True)
    assert run.checks() == tiny_checks
    assert run.card == tiny_card
    assert run.is_complete
    assert run.missing_stages == ()


def test_unfinished_run_gives_the_same_numbers_as_the_finished_one(
    tmp_path: Path, start_tiny_run: Start, fill_tiny_run: Fill, assert_same_scores: Compare
) -> None:
    with start_tiny_run(tmp_path) as writer:
        fill_tiny_run(writer)
        before = Run.open(writer.path)
        scores, checks = before.scores(), before.checks()
        assert not before.is_complete
        after = Run.open(writer.finish(peak_memory_bytes=None))
    for name, score in scores.items():
        assert_same_scores(score, after.score(name))
    assert checks == after.checks()
    with pytest.raises(RunError, match="was finished or moved away: open it again"):
        before.checks()


def test_finished_folder_holds_what_the_manifest_lists_and_nothing_else(tiny_run: Path) -> None:
    manifest = Run.open(tiny_run).manifest
    found = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert found == {"manifest.json", *manifest.files}
    assert {name.split("/")[0] for name in found} == {
        "manifest.json",
        "scores.parquet",
        "checks.json",
        "tensors",
        "progress.jsonl",
        "log.txt",
    }
    for name, record in manifest.files.items():
        assert record_of(tiny_run / name) == record


def test_table_has_the_documented_columns_and_a_row_per_score_and_head(tiny_run: Path) -> None:
    table = pq.read_table(tiny_run / "scores.parquet")
    assert table.column_names == ["score", "layer", "head", "kv_head", "value", "low", "high", "n", "unit"]
    assert table.num_rows == 20 * 12
    assert table["kv_head"].to_pylist()[:4] == [0, 0, 1, 1]
    assert table["value"].null_count == 1
    assert json.loads((tiny_run / "progress.jsonl").read_text().splitlines()[0])["stage"] == "previous_token"


def test_run_is_named_by_time_kind_model_and_hash(tmp_path: Path, start_tiny_run: Start) -> None:
    with start_tiny_run(tmp_path) as writer:
        stamp, kind, *model, code = writer.manifest.id.split("-")
        assert writer.path.name == f"{writer.manifest.id}.tmp"
    assert time.strptime(stamp, "%Y%m%dt%H%M%Sz")
    assert (kind, "-".join(model), len(code)) == ("score", "made-up", 8)


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("planted:all", "planted-all"),
        ("/home/someone/models/My Model/", "my-model"),
        ("../..", "model"),
        ("模型", "model"),
        ("x" * 200, "x" * 40),
    ],
)
def test_name_of_a_run_is_a_plain_word_whatever_the_model_is_called(
    tmp_path: Path, tiny_model: ModelRecord, model: str, slug: str
) -> None:
    record = tiny_model.model_copy(update={"name": model})
    with RunWriter.create(
        tmp_path, kind="score", model=record, config={}, command="", seed=0, planned=["a"], card=None
    ) as writer:
        assert writer.manifest.id.split("-", 2)[2][:-9] == slug
        assert [run.model for run in list_runs(tmp_path)] == [model]


def test_same_run_started_twice_in_a_second_gets_two_folders(tmp_path: Path, start_tiny_run: Start) -> None:
    with start_tiny_run(tmp_path) as first, start_tiny_run(tmp_path) as second:
        assert first.path != second.path
        assert len(list_runs(tmp_path)) == 2


def test_second_writer_is_refused_and_told_who_writes(tmp_path: Path, start_tiny_run: Start) -> None:
    with (
        start_tiny_run(tmp_path) as writer,
        pytest.raises(RunError, match=rf"\(pid {os.getpid()}, since .*Wait"),
    ):
        RunWriter.resume(writer.path)
    with RunWriter.resume(writer.path):
        pass


def test_lock_of_a_killed_writer_is_void_and_this_is_said(
    tmp_path: Path, start_tiny_run: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with start_tiny_run(tmp_path) as writer:
        pass
    (writer.path / ".lock").write_text('{"pid": 1, "since": "long ago"}')  # alive, but holds no lock
    with RunWriter.resume(writer.path):
        assert "(pid 1, since long ago) died before it finished" in caplog.text


def test_finished_run_cannot_be_resumed(tiny_run: Path) -> None:
    for path in (tiny_run, tiny_run.with_name(tiny_run.name + ".tmp")):
        with pytest.raises(RunError, match="is finished: nothing is left to resume"):
            RunWriter.resume(path)


def test_corrupt_run_cannot_be_resumed(tmp_path: Path, start_tiny_run: Start, tiny_scores: Scores) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("induction", tiny_scores["induction"], seconds=0.1)
    (writer.path / "stages" / "induction.parquet").write_bytes(b"")
    with pytest.raises(RunError, match=r"corrupt: stages/induction\.parquet has 0 bytes"):
        RunWriter.resume(writer.path)


def test_run_cannot_be_finished_with_a_stage_missing(tmp_path: Path, start_tiny_run: Start) -> None:
    with (
        start_tiny_run(tmp_path) as writer,
        pytest.raises(RunError, match="without: previous_token, duplicate"),
    ):
        writer.finish(peak_memory_bytes=None)


def test_stage_comes_once_and_only_if_planned(tmp_path: Path, start_tiny_run: Start, tiny_scores: Scores) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("entropy", tiny_scores["entropy"], seconds=0.1)
        for stage in ("entropy", "never_planned", "../entropy"):
            with pytest.raises(RunError, match="waits for no stage"):
                writer.save_scores(stage, [], seconds=0.1)
            with pytest.raises(RunError, match="waits for no stage"):
                writer.save_checks(stage, [], seconds=0.1)


def test_scores_of_another_model_or_twice_and_samples_without_a_score_are_refused(
    tmp_path: Path, start_tiny_run: Start, tiny_scores: Scores, tiny_samples: dict[str, np.ndarray]
) -> None:
    (entropy,) = tiny_scores["entropy"]
    with start_tiny_run(tmp_path) as writer:
        for stranger in (replace(entropy, model="other"), replace(entropy, n_kv_heads=4)):
            with pytest.raises(RunError, match="of another model"):
                writer.save_scores("entropy", [stranger], seconds=0.1)
        with pytest.raises(RunError, match="samples belong to a score"):
            writer.save_scores("entropy", [entropy], samples=tiny_samples, seconds=0.1)
        flat = {"entropy": tiny_samples["entropy"][0]}
        with pytest.raises(RunError, match=r"not \[n, layer, head\]"):
            writer.save_scores("entropy", [entropy], samples=flat, seconds=0.1)
        writer.save_scores("entropy", [entropy], seconds=0.1)
        with pytest.raises(RunError, match="A score comes once"):
            writer.save_scores("sink", [entropy], seconds=0.1)
        assert Run.open(writer.path).manifest == writer.manifest


def test_leaving_by_an_exception_says_how_to_resume(tmp_path: Path, start_tiny_run: Start) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, start_tiny_run(tmp_path) as writer:
        raise KeyboardInterrupt
    (note,) = caught.value.__notes__
    assert note == (f"0 of 11 stages are kept in {writer.path}. Continue with: headscope score --resume {writer.path}")


def test_working_time_and_peak_memory_add_up_over_a_break(
    tmp_path: Path, start_tiny_run: Start, fill_tiny_run: Fill, tiny_scores: Scores
) -> None:
    begun = time.monotonic()
    with start_tiny_run(tmp_path) as writer:
        time.sleep(0.2)
        writer.save_scores("entropy", tiny_scores["entropy"], seconds=0.1)
    time.sleep(0.5)
    with RunWriter.resume(writer.path) as writer:
        fill_tiny_run(writer)
        run = Run.open(writer.finish(peak_memory_bytes=5))
    assert run.manifest.peak_memory_bytes == 5
    assert run.manifest.seconds is not None
    assert 0.2 <= run.manifest.seconds <= time.monotonic() - begun - 0.5
    assert "resumed with 1 of 11 stages" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize("root", ["file/runs", "file", "/proc/runs"])
def test_folder_that_cannot_be_written_is_named_with_what_to_do(
    tmp_path: Path, start_tiny_run: Start, root: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"^cannot write to the folder .*\. Choose a folder"):
        start_tiny_run(tmp_path / root)


def test_full_disk_keeps_what_is_finished_and_leaves_no_part_of_a_file(
    tmp_path: Path, start_tiny_run: Start, tiny_scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("entropy", tiny_scores["entropy"], seconds=0.1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RunError, match=r"the disk is full\. Free some space"):
                writer.save_scores("sink", tiny_scores["sink"], seconds=0.1)
    run = Run.open(writer.path)
    assert [stage.name for stage in run.manifest.stages] == ["entropy"]
    assert not list(writer.path.rglob(".*.partial"))


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    with pytest.raises(RunError, match="bad disk"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_log_line_that_a_kill_cut_is_dropped_on_resume(tmp_path: Path, start_tiny_run: Start) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.progress({"done": 1})
        writer.log("two\nlines")
    with (writer.path / "progress.jsonl").open("a") as file:
        file.write('{"done": 2, "ti')
    with RunWriter.resume(writer.path) as writer:
        writer.progress({"done": 3})
    events = [json.loads(line) for line in (writer.path / "progress.jsonl").read_text().splitlines()]
    assert [event["done"] for event in events] == [1, 3]
    assert "two lines\n" in (writer.path / "log.txt").read_text()
