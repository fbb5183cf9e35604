"""A lab answer that is kept as a run is the answer itself, to the last bit, and can be asked for again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.lab_run import lab_command, load_lab, same_question, save_lab
from app.live.plain_data import pack
from app.live.requests import LabRequest, ModelChoice
from app.live.results import LabResult
from app.live.work import Desk
from app.views.numbers import fixed, signed
from headscope.errors import RunError, UnknownNameError
from headscope.runs.files import record_of
from headscope.runs.manifest import MANIFEST
from headscope.runs.reading import Run

CHOICE = ModelChoice(model="planted:induction")
TEXT = "the old keeper said that the old"


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(lambda *_: None)


def ask(desk: Desk, **settings: Any) -> tuple[LabRequest, LabResult]:
    request = LabRequest(**{"choice": CHOICE, "text": TEXT, "heads": ("L0H0", "L1H0"), "random_sets": 2, **settings})
    result = desk.answer(request, tell=lambda *_: None, check=lambda: None)
    assert isinstance(result, LabResult)
    return request, result


def same(one: LabResult, other: LabResult) -> bool:
    """Whether every field, array and number is the same; NaN equals NaN."""
    parts: list[tuple[str, dict[str, np.ndarray]]] = []
    for result in (one, other):
        arrays: dict[str, np.ndarray] = {}
        parts.append((json.dumps(pack(result, arrays)), arrays))
    (text, arrays), (other_text, others) = parts
    return text == other_text and all(
        arrays[name].dtype == others[name].dtype and np.array_equal(arrays[name], others[name], equal_nan=True)
        for name in arrays
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"heads": ()},
        {"captures": True},
        {"text": "old", "bos": False},
        {"ablation": "mean", "seed": 3},
        {"ablation": "act", "captures": True},
        {"policy": "duo", "kept": 2, "captures": True},
    ],
    ids=["ablated", "no heads", "captures", "one token, no loss", "mean, with a note", "calibrated", "policy"],
)
def test_what_is_read_is_what_was_written(desk: Desk, tmp_path: Path, settings: dict[str, Any]) -> None:
    request, result = ask(desk, **settings)
    pinned = load_lab(Run.open(save_lab(request, result, root=tmp_path)))
    assert pinned.request == request
    assert same(pinned.result, result)
    assert not same(pinned.result, replace(result, seconds=-1.0))
    assert not pinned.result.clean.logits.flags.writeable


def test_an_answer_of_before_there_were_policies_still_loads(desk: Desk, tmp_path: Path) -> None:
    request, result = ask(desk)
    folder = save_lab(request, result, root=tmp_path)
    path, manifest = folder / "records" / "lab.json", folder / MANIFEST
    record = json.loads(path.read_text())
    for name in ("policy", "kept"):
        del record["request"]["settings"][name]
    del record["result"]["cost"]
    path.write_text(json.dumps(record))
    data = json.loads(manifest.read_text())
    data["files"]["records/lab.json"] = record_of(path).model_dump()
    manifest.write_text(json.dumps(data))
    pinned = load_lab(Run.open(folder))
    assert pinned.request == request
    assert same(pinned.result, result)


def test_the_run_says_where_it_came_from(desk: Desk, tmp_path: Path) -> None:
    request, result = ask(desk, seed=5)
    seen: list[Path] = []
    manifest = Run.open(save_lab(request, result, root=tmp_path, opened=seen.append)).manifest
    assert seen[0].name == f"{manifest.id}.tmp"
    assert (manifest.kind, manifest.status, manifest.seed) == ("lab", "done", 5)
    assert manifest.model.name == "planted:induction"
    assert (manifest.model.n_layers, manifest.model.n_heads) == (2, 4)
    assert manifest.model.revision
    assert manifest.config["heads"] == ["L0H0", "L1H0"]
    assert manifest.command == lab_command(request)
    assert {"torch", "headscope"} <= set(manifest.versions)


def test_reading_a_kept_answer_loads_no_torch(desk: Desk, tmp_path: Path) -> None:
    folder = save_lab(*ask(desk), root=tmp_path)
    code = (
        "import sys; from pathlib import Path; from app.lab_run import load_lab; import app.pages.lab\n"
        "from headscope.runs.reading import Run\n"
        f"print(load_lab(Run.open(Path({str(folder)!r}))).result.n_tokens, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8", "False"]


def test_a_run_of_another_kind_or_a_damaged_one_is_refused(desk: Desk, tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(UnknownNameError, match="keeps no lab answer"):
        load_lab(Run.open(tiny_run))
    folder = save_lab(*ask(desk), root=tmp_path)
    path, manifest = folder / "records" / "lab.json", folder / MANIFEST
    record = json.loads(path.read_text())
    for broken in (
        {**record, "request": {"type": "capture", "settings": record["request"]["settings"]}},
        {**record, "result": {**record["result"], "kl": "high"}},
        {**record, "result": {**record["result"], "unheard_of": 1}},
        {**record, "result": {**record["result"], "text": {"array": "nowhere"}}},
        {**record, "result": []},
        {"kind": "lab"},
    ):
        path.write_text(json.dumps(broken))
        data = json.loads(manifest.read_text())
        data["files"]["records/lab.json"] = record_of(path).model_dump()
        manifest.write_text(json.dumps(data))
        with pytest.raises(RunError, match=r"is corrupt: its answer does not parse"):
            load_lab(Run.open(folder))


def test_the_last_position_by_either_name_is_the_same_question() -> None:
    one = LabRequest(choice=CHOICE, text=TEXT)
    at = lambda position: one.model_copy(update={"position": position})  # noqa: E731
    assert same_question(one, at(7), n_tokens=8)
    assert same_question(at(-8), at(0), n_tokens=8)
    assert not same_question(at(15), at(7), n_tokens=8)
    assert not same_question(one, at(6), n_tokens=8)
    assert not same_question(one, one.model_copy(update={"heads": ("L0H0",)}), n_tokens=8)


def invoke(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"token_a": " old", "token_b": "-x", "position": -3, "text": 'a "quoted"\ntext -- with = signs'},
        {"ablation": "resample", "seed": 4, "captures": True, "bos": False},
        {"heads": ()},
        {"heads": (), "policy": "top-keys", "kept": 9},
        {"ablation": "act"},
    ],
    ids=["odd text", "all options", "none", "policy", "calibrated"],
)
def test_the_command_line_of_a_pin_asks_the_same(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    request = LabRequest(**{"choice": CHOICE, "text": TEXT, "heads": ("L0H0",), "random_sets": 2, **settings})
    asked: list[LabRequest] = []
    monkeypatch.setattr("app.commands.lab._run", lambda request, _: asked.append(request) or "there")
    code, out, err = invoke(*shlex.split(lab_command(request))[1:])
    assert (code, out.strip()) == (0, "there"), err
    assert asked == [request]


def test_the_command_keeps_the_answer_of_the_model_process(desk: Desk, tmp_path: Path) -> None:
    code, out, err = invoke(
        "lab", "planted:induction", "--text", TEXT, "--heads", "L1H0,0.0", "--random", "2", "--out", str(tmp_path)
    )
    assert code == 0, err
    pinned = load_lab(Run.open(Path(out.strip().splitlines()[-1])))
    request, result = ask(desk)
    assert pinned.request == request
    assert same(replace(pinned.result, seconds=result.seconds), result)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Ablated at every position (zero: its output z is set to 0): L0H0, L1H0."),
        ({"policy": "streaming", "kept": 2, "heads": (), "random_sets": 0}, "The cache keeps "),
        ({"heads": (), "random_sets": 0}, "No head is ablated: this is the untouched model."),
        ({"text": "old", "bos": False}, "of 2 random sets change it less."),
    ],
    ids=["ablated", "policy", "untouched", "one token"],
)
def test_show_prints_what_the_change_did(desk: Desk, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    request, result = ask(desk, **settings)
    save_lab(request, result, root=tmp_path)
    code, out, err = invoke("show", "latest", "--root", str(tmp_path))
    assert code == 0, err
    text = " ".join(out.split())
    assert said in text
    numbers = [fixed(result.clean.logit_diff, 4)]
    if result.ablated is not None and result.kl is not None:
        numbers += [fixed(result.kl, 4), signed(result.ablated.logit_diff - result.clean.logit_diff, 4)]
        if result.n_tokens > 1:
            numbers.append(signed(result.ablated.mean_loss - result.clean.mean_loss, 4))
    assert all(f" {number}" in text for number in numbers)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", ""), "the setting 'text' cannot be ''"),
        (("--text", "a", "--heads", "foo"), "'foo' is not a head"),
        (("--text", "a", "--heads", "L9H9"), "has no head L9H9: it has 2 layers x 4 heads"),
        (("--text", "a", "--ablation", "none"), "'uniform', 'to_bos' or 'act'"),
        (("--text", "a", "--policy", "streming"), "Did you mean 'streaming'"),
        (("--text", "a", "--policy", "streaming", "--kept", "0"), "greater than or equal to 1"),
        (("--text", "a " * 5000), "tokens;"),
        (("--text", "a", "--a", "two words"), "name exactly one token"),
        (("--text", "a", "--position", "40"), "position 40 is outside the text"),
        (("--text", "a", "--random", "21"), "less than or equal to 20"),
        ((), "--text"),
    ],
    ids=[
        "empty text",
        "no head",
        "missing head",
        "ablation",
        "policy",
        "kept",
        "long",
        "two tokens",
        "position",
        "sets",
        "no text",
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = invoke("lab", "planted:induction", *words, "--out", str(tmp_path))
    assert code == 2
    assert out == ""
    assert said in err
    assert list(tmp_path.iterdir()) == []
