"""The page Jobs without a browser: forms that give command lines, lines of the list, exports, the server's queue."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app as cli
from app.forms import COMMANDS, fields_of, find_command
from app.jobs.records import Job, JobError, JobProgress
from app.jobs.store import JobStore
from app.pages import job_form, job_list
from app.pages.jobs import PAGE, JobsState
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site
from app.views.jobs import SYMBOLS, JobLine, job_lines, job_table, progress_text, time_left
from headscope.errors import HeadscopeError, UnknownNameError

PREFILLED = {"model": "planted:induction", "run": "20250101t000000z-score-tiny-00000000", "text": "a b"}
SAY = (sys.executable, "-c")


def wait_for(wanted: Callable[[], Any]) -> Any:
    """Wait until something is true, for at most half a minute."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if found := wanted():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def over(store: JobStore, id: str) -> Job:
    """The job when it is over."""
    return wait_for(lambda: job if (job := store.get(id)).is_over else None)


def flat(part: Any) -> Iterator[Any]:
    """A component and all inside it."""
    yield part
    children = getattr(part, "children", None)
    for child in children if isinstance(children, (list, tuple)) else [children]:
        if child is not None:
            yield from flat(child)


def words(part: Any) -> str:
    """All text of a component."""
    parts = part if isinstance(part, list) else [part]
    return " ".join(str(each) for one in parts for each in flat(one) if isinstance(each, (str, int, float)))


def initial_values(command: str, root: Path) -> dict[str, Any]:
    """What a fresh form holds, read from its controls."""
    given = {**PREFILLED, "out": str(root / "scores.csv")}
    form = next(
        part for part in job_form.all_forms(command, given, []) if getattr(part, "id", "") == f"jobs-form-{command}"
    )
    controls = [part for part in flat(form) if isinstance(getattr(part, "id", None), dict)]
    return {part.id["name"]: getattr(part, "value", None) for part in controls}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site over an empty folder, whose jobs are one-line Python programs."""
    made = Site(ServerSettings(root=tmp_path / "runs"))
    made.__dict__["jobs"] = JobStore(made.root, program=SAY, grace_s=(0.2, 0.2))
    yield made
    made.close()
    for job in made.jobs.list():
        made.jobs.cancel(job.id)


@pytest.fixture
def store(site: Site) -> JobStore:
    """Its jobs."""
    return site.jobs


def lines(store: JobStore) -> list[JobLine]:
    """The list now."""
    return job_lines(store, datetime.now(UTC))


@pytest.mark.parametrize("command", [form.name for form in COMMANDS])
def test_a_fresh_form_has_every_field_and_gives_the_shortest_line_that_the_command_line_reads(
    command: str, tmp_path: Path
) -> None:
    form, values = find_command(command), initial_values(command, tmp_path)
    assert set(values) == {field.name for field in fields_of(form.config)}
    filled = job_form.read_form(command, values, tmp_path)
    assert filled.problem == ""
    given = {**PREFILLED, "out": str(tmp_path / "scores.csv")}
    required = {name: given[name] for name, info in form.config.model_fields.items() if info.is_required()}
    assert filled.words == tuple(form.words(form.config.parse(required), tmp_path))
    assert shlex.split(filled.line) == ["headscope", *filled.words]


@pytest.mark.parametrize("form", COMMANDS, ids=lambda form: form.name)
def test_the_command_line_reads_the_line_of_a_fresh_form_as_far_as_the_name_that_is_not_there(
    form: Any, tmp_path: Path
) -> None:
    values = initial_values(form.name, tmp_path)
    missing = PREFILLED["run"] if "run" in values else "planted:nothing"
    named = {"device": "nowhere"} if form.name == "train" else {"run": missing} if form.name == "compare" else {}
    named |= {"model": missing} if "model" in values else {}
    filled = job_form.read_form(form.name, values | named, tmp_path)
    answer = CliRunner().invoke(cli, filled.words)
    assert answer.exit_code != 0
    said = (
        "error: 'nowhere' is not a device" if form.name == "train" else f"error: no (model|run) is called '{missing}'"
    )
    assert re.search(said, answer.output), answer.output


@pytest.mark.parametrize("form", COMMANDS, ids=lambda form: form.name)
def test_every_field_has_a_label_and_says_its_bounds_and_default(form: Any) -> None:
    for field in fields_of(form.config):
        said = job_form.describe(field)
        assert field.label, field
        assert field.help, f"{form.name}.{field.name} has no help"
        for bound in (field.minimum, field.maximum):
            assert bound is None or f"{bound:g}" in said or str(bound) in said, said
        if field.kind in ("int", "float") and field.default is not None:
            assert f"Default: {field.default}." in said


@pytest.mark.parametrize(
    ("command", "name", "value", "said"),
    [
        ("score", "draws", 0, "'draws' cannot be 0: it should be greater than or equal to 1"),
        ("score", "draws", "many", "'draws' cannot be 'many'"),
        ("score", "model", "", "'model' is empty: give it a value"),
        ("score", "checks", ["none", "sink"], "give all, none or names, not both"),
        ("score", "dtype", "int8", "one of float32, bfloat16, float16"),
        ("inspect", "heads", "L1H1\nnonsense", "'nonsense'"),
        ("export", "run", "../../etc/passwd", "'run' cannot be"),
        ("sweep", "model", "x", "'sweep'"),
    ],
)
def test_wrong_values_are_sentences_that_name_the_field(
    command: str, name: str, value: Any, said: str, tmp_path: Path
) -> None:
    values = initial_values(command, tmp_path) if command != "sweep" else {}
    filled = job_form.read_form(command, values | {name: value}, tmp_path)
    assert said in filled.problem
    assert not filled.problem[0].islower()
    assert filled.words == ()
    assert filled.line == ""
    assert set(filled.wrong) == ({name} if command != "sweep" else set())
    assert all(said in text for text in filled.wrong.values())


def test_each_wrong_field_has_its_own_sentence(tmp_path: Path) -> None:
    values = initial_values("score", tmp_path) | {"draws": 0, "lengths": "12, x"}
    wrong = job_form.read_form("score", values, tmp_path).wrong
    assert set(wrong) == {"draws", "lengths"}
    assert "cannot be 0" in wrong["draws"]
    assert "'lengths' cannot hold 'x'" in wrong["lengths"]
    assert "lengths" not in wrong["draws"]


@pytest.mark.parametrize("command", ["report", "export"])
def test_files_are_written_into_the_folder_of_runs_only(command: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "runs", tmp_path / "else"
    run = root / PREFILLED["run"]
    for folder in (run, outside, root / ".jobs"):
        folder.mkdir(parents=True)
    for name in ("manifest.json", "report.html"):
        (run / name).write_text("{}")
    (root / "link").symlink_to(outside)
    values = initial_values(command, root)
    for good in (root / "x.csv", run / "report.html", run / "new.csv", root / "link" / ".." / "runs" / "x.csv"):
        assert job_form.read_form(command, values | {"out": str(good)}, root).words
    places = [outside / "x", root / "link" / "x", root / ".." / "x", root, root / ".jobs" / "x", run / "manifest.json"]
    for bad in [*map(str, places), "/etc/passwd", "-", "x.csv"]:
        filled = job_form.read_form(command, values | {"out": bad}, root)
        assert filled.words == (), bad
        assert set(filled.wrong) == {"out"}
        assert "'out' cannot be" in filled.problem


def test_values_of_other_forms_are_left_out() -> None:
    given = [
        {"id": job_form.field_id(name, "model"), "property": "value", "value": name} for name in ("score", "inspect")
    ]
    assert job_form.values_given(given, "inspect") == {"model": "inspect"}


def test_the_state_takes_every_command_and_nothing_else() -> None:
    for form in COMMANDS:
        assert JobsState.read({"command": form.name}) == (JobsState(command=form.name), ())
    state, refused = JobsState.read({"command": "rm -rf", "model": "m" * 501})
    assert state == JobsState()
    assert len(refused) == 2


@pytest.mark.parametrize("command", [form.name for form in COMMANDS])
def test_the_address_chooses_the_one_form_that_is_shown_and_fills_in_its_model(command: str, site: Site) -> None:
    state, _ = JobsState.read({"command": command, "model": "planted:sink"})
    parts = [part for one in PAGE.layout(site, state) for part in flat(one)]
    forms = {part.id: part for part in parts if str(getattr(part, "id", "")).startswith("jobs-form-")}
    assert set(forms) == {f"jobs-form-{form.name}" for form in COMMANDS}
    assert [id for id, form in forms.items() if not getattr(form, "hidden", False)] == [f"jobs-form-{command}"]
    models = [part.value for part in parts if getattr(part, "id", None) == job_form.field_id(command, "model")]
    assert set(models) <= {"planted:sink"}
    assert bool(models) == ("model" in find_command(command).config.model_fields)


def test_the_running_server_starts_what_waits_one_after_the_other_and_stops_when_closed(
    site: Site, store: JobStore
) -> None:
    first, second = (store.submit("score", ["import time; time.sleep(0.2)"], name) for name in ("a", "b"))
    assert [line.state for line in lines(store)] == ["queued", "queued"]
    site.start()
    site.start()
    one, two = over(store, first.id), over(store, second.id)
    assert (one.state, two.state) == ("done", "done")
    assert one.ended <= two.started
    site.close()
    third = store.submit("score", ["pass"], "c")
    time.sleep(1.2)
    assert store.get(third.id).state == "queued"


def test_the_queue_goes_on_after_an_error(site: Site, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = store.tick, list[int]()

    def tick() -> list[str]:
        if len(failed) < 2:
            failed.append(1)
            raise HeadscopeError("the disk is full.")
        return real()

    monkeypatch.setattr(store, "tick", tick)
    job = store.submit("score", ["pass"], "a")
    site.start()
    assert over(store, job.id).state == "done"
    assert len(failed) == 2


def test_a_failed_job_says_its_last_line_and_can_be_removed(store: JobStore) -> None:
    job = store.submit("score", ["import sys; sys.exit('Error: no such model.')"], "a <b>title</b>")
    store.tick()
    over(store, job.id)
    (line,) = lines(store)
    assert (line.state, line.note, line.symbol) == ("failed", "Error: no such model.", "✕")
    shown = words(job_list.list_content([line], "").body)
    assert "failed" in shown
    assert "✕" in shown
    assert "Remove" in shown
    assert "Cancel" not in shown
    assert "Resume" not in shown
    site_like = Site(ServerSettings(root=store.root))
    assert job_list.act(site_like, "remove", job.id) == ("The job “a <b>title</b>” was removed.", "")
    assert lines(store) == []


def test_a_running_job_shows_progress_and_is_cancelled_and_its_log_follows(site: Site, store: JobStore) -> None:
    event = {"time": time.time(), "event": "step", "name": "sink", "index": 2, "count": 4, "done": 5, "total": 10}
    code = (
        "import os, sys, time; open(os.environ['HEADSCOPE_PROGRESS'], 'w').write(sys.argv[1] + '\\n');"
        "print('\\x1b[31mred\\x1b[0m words', file=sys.stderr, flush=True); time.sleep(60)"
    )
    job = store.submit("score", [code, json.dumps(event)], "slow")
    store.tick()
    wait_for(lambda: store.get(job.id).progress.index == 2 and store.log_tail(job.id))
    found = lines(store)
    content = job_list.list_content(found, job.id)
    bar = next(part for part in flat(content.body) if type(part).__name__ == "Progress")
    assert float(bar.value) == pytest.approx((1 + 0.5) / 4)
    assert "stage 2 of 4: sink, 5 of 10" in words(content.body)
    assert "1 running" in content.caption
    assert found[0].is_live
    assert "red words" in words(job_list.log_content(site, found, job.id).body)
    assert "\x1b" not in words(job_list.log_content(site, found, job.id).body)
    with pytest.raises(JobError, match="not over"):
        job_list.act(site, "remove", job.id)
    assert job_list.act(site, "cancel", job.id)[0] == "The job “slow” was asked to stop."
    assert over(store, job.id).state == "cancelled"
    assert "Ended in stage 2 of 4: sink." in words(job_list.list_content(lines(store), "").body)


@pytest.mark.parametrize(("order", "id"), [("cancel", "../x"), ("resume", "nothing"), ("remove", "")])
def test_orders_about_jobs_that_are_not_there_are_refused(site: Site, order: str, id: str) -> None:
    with pytest.raises(UnknownNameError):
        job_list.act(site, order, id)


def test_strange_orders_are_refused(site: Site) -> None:
    with pytest.raises(HeadscopeError, match="cancel, resume or remove"):
        job_list.act(site, "rm", "x")


def test_a_cancelled_job_whose_run_is_unfinished_is_resumed_once(site: Site, store: JobStore) -> None:
    run = "20250101t000000z-score-tiny-00000000"
    (store.root / f"{run}.tmp").mkdir(parents=True)
    event = json.dumps({"time": time.time(), "event": "run", "name": str(store.root / f"{run}.tmp")})
    code = "import os, sys; open(os.environ['HEADSCOPE_PROGRESS'], 'w').write(sys.argv[1] + '\\n'); sys.exit(130)"
    job = store.submit("score", [code, event], "score tiny")
    store.tick()
    over(store, job.id)
    (line,) = lines(store)
    assert (line.run_id, line.run_state, line.run_path) == (run, "unfinished", "/")
    assert line.resume_line == shlex.join(["headscope", "score", "--resume", run, "--out", str(store.root)])
    assert "Resume goes on" in line.note
    assert line.resume_line in words(job_list.log_content(site, [line], job.id).body)
    (store.root / f"{run}.tmp").rename(store.root / run)
    assert (lines(store)[0].run_state, lines(store)[0].resume_line) == ("done", "")
    assert lines(store)[0].run_path == "/heads"
    (store.root / run).rmdir()
    assert (lines(store)[0].run_state, lines(store)[0].resume_line) == ("gone", "")
    assert "run deleted" in words(job_list.list_content(lines(store), "").body)


def test_a_lab_job_is_not_gone_on_with(store: JobStore) -> None:
    run = "20250101t000000z-lab-tiny-00000000"
    (store.root / f"{run}.tmp").mkdir(parents=True)
    event = json.dumps({"time": time.time(), "event": "run", "name": str(store.root / f"{run}.tmp")})
    code = "import os, sys; open(os.environ['HEADSCOPE_PROGRESS'], 'w').write(sys.argv[1] + '\\n'); sys.exit(1)"
    job = store.submit("lab", [code, event], "lab tiny")
    store.tick()
    over(store, job.id)
    assert (lines(store)[0].run_state, lines(store)[0].resume_line) == ("unfinished", "")


def test_while_a_run_is_resumed_it_is_not_offered_again(store: JobStore) -> None:
    run = "20250101t000000z-score-tiny-00000000"
    (store.root / f"{run}.tmp").mkdir(parents=True)
    event = json.dumps({"time": time.time(), "event": "run", "name": str(store.root / f"{run}.tmp")})
    code = "import os, sys; open(os.environ['HEADSCOPE_PROGRESS'], 'w').write(sys.argv[1] + '\\n'); sys.exit(1)"
    job = store.submit("score", [code, event], "score tiny")
    store.tick()
    over(store, job.id)
    assert lines(store)[0].resume_line
    resumed = store.submit("score", ["score", "--resume", run, "--out", "x"], "resume score tiny")
    assert [line.resume_line for line in lines(store)] == ["", ""]
    store.cancel(resumed.id)
    assert lines(store)[1].resume_line


@pytest.mark.parametrize(
    ("progress", "is_running", "text"),
    [
        (JobProgress(), True, ""),
        (JobProgress(message="loading smollm2"), True, "loading smollm2"),
        (JobProgress("sink", 2, 5, 3, 9, 0.3, 42.0), True, "stage 2 of 5: sink, 3 of 9; about 42 s left"),
        (JobProgress("sink", 2, 5, 3, 9, 0.3, 42.0), False, "stage 2 of 5: sink"),
        (JobProgress("sink", 2, 5), True, "stage 2 of 5: sink"),
    ],
)
def test_progress_is_told_in_words(progress: JobProgress, is_running: bool, text: str) -> None:
    assert progress_text(progress, is_running=is_running) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about 1 s left"), (42.4, "about 42 s left"), (600, "about 10 min left"), (9000, "about 2.5 h left")],
)
def test_time_left_is_no_finer_than_an_estimate(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_every_state_has_its_own_sign() -> None:
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 7


def test_the_exports_are_the_lines_of_the_list(site: Site, store: JobStore) -> None:
    for name in ("one", "=two"):
        store.submit("score", ["pass"], name)
    client = create_app(site.settings, site=site).server.test_client()
    rows = list(csv.DictReader(io.StringIO(client.get("/data/jobs/list.csv").text)))
    told = json.loads(client.get("/data/jobs/list.json").text)
    expected = lines(store)
    assert [row["job"] for row in rows] == [line.id for line in expected] == [row["job"] for row in told["rows"]]
    assert [row["title"] for row in rows] == ["'=two", "one"]
    assert told["rows"] == job_table(expected).records()
    assert client.get("/data/jobs/log.csv").status_code == 404


def test_took_is_from_start_to_end_or_to_now(store: JobStore) -> None:
    job = store.submit("score", ["pass"], "a")
    assert lines(store)[0].seconds is None
    store.tick()
    ended = over(store, job.id)
    took = datetime.fromisoformat(ended.ended) - datetime.fromisoformat(ended.started)
    assert job_lines(store, datetime.now(UTC) + timedelta(hours=1))[0].seconds == took.total_seconds()


def test_a_broken_job_and_one_that_is_gone_are_told(site: Site, store: JobStore) -> None:
    job = store.submit("score", ["pass"], "a")
    (store.root / ".jobs" / job.id / "job.json").write_text("{")
    (line,) = lines(store)
    assert (line.state, line.title) == ("broken", job.id)
    assert "job.json is damaged" in line.note
    content = job_list.log_content(site, [line], job.id)
    assert content.notice == ("empty", line.note)
    assert "no job" in str(job_list.log_content(site, [], "gone").notice)


def test_only_the_newest_jobs_are_on_screen_but_all_are_exported(store: JobStore) -> None:
    store.submit("score", ["pass"], "a")
    many = [replace(lines(store)[0], id=f"j{number}") for number in range(200)]
    content = job_list.list_content(many, "")
    assert content.table is not None
    assert len(content.table.rows) == 200
    assert len(content.body.children) == 60
    assert "newest 60" in content.caption


def test_the_page_loads_no_torch() -> None:
    code = "import sys, app.pages.jobs, app.site; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
