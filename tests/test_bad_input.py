"""What a user can get wrong when scoring ends in one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import headscope.models
from app.cli import app

PROGRESS = re.compile(r"(load|capability card)( \.\.\.|: \d+\.\d s)")


def score(*arguments: str) -> Result:
    """Run `headscope score` in this process."""
    return CliRunner().invoke(app, ["score", *arguments])


def assert_refused(result: Result, message: str) -> None:
    """Exit code 2, nothing on standard output, and behind what was done before, one printable line."""
    assert result.exit_code == 2, (result.exit_code, result.exception, result.output)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    *before, line = result.stderr.removesuffix("\n").split("\n")
    assert all(PROGRESS.fullmatch(one) for one in before), before
    assert line.isprintable()
    assert re.match(rf"error: .*(?:{message})", line), line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files of every wrong kind."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("empty folder").mkdir()
    Path("blank.txt").write_text(" \n")
    Path("short.txt").write_text("a few words. of the old keeper.")
    Path("latin.txt").write_bytes("h\xe9".encode("latin-1"))
    needle = {"name": "n", "cue": "the ship spells", "answer": "amber", "question": "what ?"}
    wrong: dict[str, Any] = {
        "none": [],
        "number": [1],
        "object": needle,
        "null": None,
        "no-cue": [{**needle, "cue": " "}],
        "key": [{**needle, "colour": "red"}],
        "missing-key": [{"name": "n"}],
        "list": [{**needle, "answer": ["amber"]}],
        "surrogate": [{**needle, "answer": "\ud800"}],
        "long": [{**needle, "answer": "amber " * 200}],
    }
    for name, content in wrong.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    Path("cut.json").write_text("[{")
    return tmp_path


# what is wrong -> arguments behind `score` and what the message says; these need no model to be seen
AT_ONCE: dict[str, tuple[list[str], str]] = {
    "no model": ([], "give either a MODEL to score or --resume RUN. .*headscope models"),
    "two models": (["planted:all", "smollm2"], "unexpected extra argument"),
    "empty model": ([""], "MODEL is empty"),
    "unknown option": (["planted:all", "--lenghts", "9"], "No such option: --lenghts .*--lengths.* score --help"),
    "option without value": (["planted:all", "--out"], "--out"),
    "empty option": (["planted:all", "--probes", ""], "--probes is empty. Give it a value, or leave it out."),
    "empty out": (["planted:all", "--out", ""], "--out is empty"),
    "empty haystack": (["planted:all", "--haystack", ""], "--haystack is empty"),
    "empty run": (["--resume", ""], "--resume is empty"),
    "unknown run": (["--resume", "nope"], "no run is called 'nope'"),
    "run outside": (["--resume", "../../etc"], "'../../etc' is no run folder"),
    "run with escapes": (["--resume", "\x1b[31m"], "no run is called"),
    "unknown probe": (["planted:all", "--probes", "sink,inducton"], "no probe is called 'inducton'. Did you mean 'ind"),
    "no probe": (["planted:all", "--probes", ","], "--probes cannot be ','"),
    "unknown check": (["planted:all", "--checks", "retreival"], "'retreival'. Did you mean 'retrieval'"),
    "class without a check": (["planted:all", "--checks", "entropy"], "no head class with a causal check .*'entropy'"),
    "all and none": (["planted:all", "--checks", "all,none"], "no head class with a causal check"),
    "lengths of words": (["planted:all", "--lengths", "abc"], "--lengths cannot be 'abc'.* such as 256,512"),
    "broken length": (["planted:all", "--lengths", "1.5"], "--lengths cannot be '1.5'"),
    "length of nothing": (["planted:all", "--lengths", "0"], "'lengths' cannot hold 0: it should be greater than 0"),
    "negative length": (["planted:all", "--lengths", "-5"], "'lengths' cannot hold -5"),
    "same length twice": (["planted:all", "--lengths", "96,96"], "'lengths' cannot be .* give each length once"),
    "depths of words": (["planted:all", "--depths", "deep"], "--depths cannot be 'deep'.* such as 0.25"),
    "unknown needle": (["planted:all", "--needles", "vualt"], "no needle is called 'vualt'. Did you mean 'vault'"),
    "missing needle file": (["planted:all", "--needles", "nope.json"], "needle file nope.json cannot be read"),
    "cut needle file": (["planted:all", "--needles", "cut.json"], "needle file cut.json is not a JSON list"),
    "no needle": (["planted:all", "--needles", "none.json"], "needle file none.json needs at least one"),
    "needle that is a number": (["planted:all", "--needles", "number.json"], "number.json is not a JSON list"),
    "needle outside a list": (["planted:all", "--needles", "object.json"], "object.json is not a JSON list"),
    "needles that are null": (["planted:all", "--needles", "null.json"], "null.json is not a JSON list"),
    "needle without cue": (["planted:all", "--needles", "no-cue.json"], "each with a cue and an answer"),
    "needle with more": (["planted:all", "--needles", "key.json"], "'colour'"),
    "needle with less": (
        ["planted:all", "--needles", "missing-key.json"],
        "missing-key.json is not a JSON list .*'cue'",
    ),
    "answer in a list": (["planted:all", "--needles", "list.json"], "list.json is not a JSON list"),
    "half a character": (["planted:all", "--needles", "surrogate.json"], "surrogate.json is not a JSON list"),
    "missing haystack": (["planted:all", "--haystack", "nope.txt"], r"haystack nope.txt cannot be read \(No such file"),
    "blank haystack": (["planted:all", "--haystack", "blank.txt"], "haystack blank.txt is empty"),
    "haystack not needed": (
        ["planted:all", "--probes", "induction", "--checks", "none", "--haystack", "nope.txt"],
        "haystack nope.txt cannot be read",
    ),
    "haystack in Latin-1": (["planted:all", "--haystack", "latin.txt"], "haystack latin.txt is not UTF-8"),
    "haystack a folder": (["planted:all", "--haystack", "empty folder"], "haystack empty folder cannot be read"),
    "haystack with NUL": (["planted:all", "--set", 'haystack="a\\u0000b"'], "is no file name"),
    "no draws": (
        ["planted:all", "--draws", "0"],
        r"--draws.* greater than or equal to 1\. See: headscope score --help",
    ),
    "draws of words": (["planted:all", "--draws", "ten"], "--draws"),
    "too many draws": (["planted:all", "--draws", "10001"], "'draws' cannot be 10001: .* 10000"),
    "negative seed": (["planted:all", "--seed", "-1"], "--seed"),
    "broken seed": (["planted:all", "--seed", "1.5"], "--seed"),
    "huge seed": (["planted:all", "--seed", str(2**32)], "'seed' cannot be 4294967296: .* less than 4294967296"),
    "set without value": (["planted:all", "--set", "nonsense"], "--set cannot be 'nonsense': give KEY=VALUE"),
    "set without key": (["planted:all", "--set", "=1"], "there is no setting ''"),
    "unknown key": (["planted:all", "--set", "unknown_key=1"], "there is no setting 'unknown_key' .*allowed: .*draws"),
    "slip in a key": (["planted:all", "--set", "needle_exampels=1"], "Did you mean 'needle_examples'"),
    "no examples": (["planted:all", "--set", "needle_examples=0"], "'needle_examples' cannot be 0"),
    "one example": (["planted:all", "--set", "sink_examples=1"], "greater than or equal to 2"),
    "examples of words": (["planted:all", "--set", "needle_examples=few"], "'needle_examples' cannot be 'few'"),
    "examples without value": (["planted:all", "--set", "needle_examples="], "'needle_examples' cannot be ''"),
    "NaN examples": (["planted:all", "--set", "needle_examples=NaN"], "'needle_examples' cannot be nan"),
    "no k": (["planted:all", "--set", "ks=[]"], "the setting 'ks' is empty"),
    "k of nothing": (["planted:all", "--set", "ks=[0]"], "'ks' cannot hold 0"),
    "negative k": (["planted:all", "--set", "ks=[1,-3]"], "'ks' cannot hold -3"),
    "k alone": (["planted:all", "--set", "ks=5"], "'ks' cannot be 5"),
    "period of one": (["planted:all", "--set", "period=1"], "'period' cannot be 1"),
    "unknown reading": (["planted:all", "--set", "method=fast"], "'method' cannot be 'fast': .*'flash' or 'dense'"),
    "unknown ablation": (["planted:all", "--set", "ablation=none"], "'none'.*zero"),
    "ablation without reference": (["planted:all", "--set", "ablation=mean"], "needs a reference batch.* Use zero"),
    "nested too deep": (["planted:all", "--set", "seed=[[[["], "'seed' cannot be"),
    "out below a file": (
        ["planted:all", "--out", "file/runs"],
        "cannot write to the folder file/runs: Not a directory",
    ),
    "out is a file": (["planted:all", "--out", "file"], "cannot write to the folder file: "),
    "out in /proc": (["planted:all", "--out", "/proc/runs"], "cannot write to the folder /proc/runs: "),
    "out in /dev/null": (["planted:all", "--out", "/dev/null/x/y"], "cannot write to the folder /dev/null/x/y: "),
}
# these need the name, the device or the model itself
WITH_MODEL: dict[str, tuple[list[str], str]] = {
    "unknown planted model": (["planted:al"], "no model is called 'planted:al'. Did you mean 'planted:all'"),
    "planted nothing": (["planted:"], "no model is called 'planted:'"),
    "slip in the model": (["smolm2"], "no model is called 'smolm2'. Did you mean 'smollm2'"),
    "unreachable model": (["nobody/nothing"], "'nobody/nothing' could not be loaded. Tried: the catalogue, a local f"),
    "blank model": ([" "], "no model is called ' '"),
    "model outside": (["../../etc"], "../../etc"),
    "model is a file": (["file"], "file"),
    "model is an empty folder": (["./empty folder"], "empty folder has no config.json"),
    "long model": (["m" * 5000], "could not be loaded|no model is called"),
    "model with line break": (["a\nerror: forged"], r"no model is called 'a\\nerror: forged'"),
    "model with NUL": (["a\0b"], r"no model is called 'a\\x00b'"),
    "model with escapes": (["\x1b]0;owned\x07"], r"no model is called '\\x1b]0;owned\\x07'"),
    "half a character": (["m\udcff"], r"no model is called 'm\\udcff'"),
    "unknown device": (["planted:all", "--device", "gpu"], "'gpu' is not a device. Use auto, cpu, cuda"),
    "no such device": (["planted:all", "--device", "cuda:99"], "this machine has no device 'cuda:99'.* --device cpu"),
    "no such cpu": (["planted:all", "--device", "cpu:3"], "this machine has no device 'cpu:3'"),
    "device without storage": (["planted:all", "--device", "meta"], "this machine has no device 'meta'"),
    "unknown dtype": (["planted:all", "--dtype", "int8"], "'int8' is not a number format. Use one of: float32"),
    "check without its score": (
        ["planted:all", "--probes", "sink", "--checks", "retrieval"],
        "the check of 'retrieval' heads needs their score. Add its probe to --probes.",
    ),
    "length beyond the context": (
        ["planted:all", "--lengths", "2000"],
        "the limit is 1024 tokens, 1018 for the prompt",
    ),
    "length and answer beyond": (["planted:all", "--lengths", "1020"], "the limit is 1024 tokens, 1018 for the prompt"),
    "length without end": (["planted:all", "--lengths", "9" * 30], "the limit is 1024 tokens"),
    "needle longer than the length": (
        ["planted:all", "--lengths", "30"],
        "a length of 30 is too short. Use at least 4",
    ),
    "long needle": (["planted:all", "--lengths", "128", "--needles", "long.json"], "a length of 128 is too short"),
    "depth beyond the text": (["planted:all", "--depths", "0.5,2"], "a depth of 2 .*0 .*1"),
    "negative depth": (["planted:all", "--depths", "-1"], "a depth of -1 .*0 .*1"),
    "depth that is no number": (["planted:all", "--depths", "nan"], "a depth of nan"),
    "endless depth": (["planted:all", "--depths", "inf"], "a depth of inf"),
    "haystack too short": (
        ["planted:all", "--lengths", "128", "--haystack", "short.txt"],
        "the haystack has .* tokens",
    ),
    "haystack too short for a check": (
        ["planted:all", "--probes", "previous_token", "--haystack", "short.txt"],
        "the haystack .*Use a longer text",
    ),
    "period beyond the vocabulary": (["planted:all", "--set", "period=1000"], "a period of 1000 .* use 2 to 94"),
    "copies beyond the context": (["planted:all", "--set", "copies=99"], "do not fit in the context .*1024 tokens"),
    "prose beyond the context": (["planted:all", "--set", "prose_length=2000"], "beyond the context .*1024 tokens"),
}


def assert_nothing_left(place: Path) -> None:
    """Neither a run nor the folder that would hold it."""
    assert not (place / "runs").exists()
    assert not [path for path in place.rglob("*") if path.name.startswith(".new-") or path.suffix == ".tmp"]


@pytest.mark.parametrize("case", AT_ONCE)
def test_refused_before_the_model_is_loaded(place: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(headscope.models, "load", load)
    arguments, message = AT_ONCE[case]
    result = score(*arguments)
    assert_refused(result, message)
    assert len(result.stderr.splitlines()) == 1
    assert_nothing_left(place)


@pytest.mark.parametrize("case", WITH_MODEL)
def test_refused_before_a_run_is_started(place: Path, case: str) -> None:
    arguments, message = WITH_MODEL[case]
    assert_refused(score(*arguments), message)
    assert_nothing_left(place)


def test_cuda_without_one_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    message = "this machine has no device 'cuda' that torch can use. Use --device cpu."
    assert_refused(score("planted:all", "--device", "cuda"), message)
    assert_refused(CliRunner().invoke(app, ["models", "--card", "planted:all", "--device", "cuda"]), message)
    assert_nothing_left(place)


@pytest.mark.parametrize("name", ["smolm2", "planted:sinc", "nobody/nothing", "", "\x1b[31m", "empty folder"])
def test_models_refuses_what_score_refuses(place: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["models", "--card", name])
    assert_refused(result, "no model is called|'nobody/nothing' could not be loaded|empty folder has no config.json")
    assert os.listdir(place / "empty folder") == []


def test_check_for_a_writable_folder_leaves_neither_it_nor_its_parents(place: Path) -> None:
    assert_refused(score("planted:al", "--out", "new/folder/runs"), "planted:al")
    assert not (place / "new").exists()
    (place / "kept").mkdir()
    assert_refused(score("planted:al", "--out", "kept"), "planted:al")
    assert os.listdir(place / "kept") == []


def test_command_line_that_is_not_text_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["score", "planted:all", "--out", "folder\udcff"]
    monkeypatch.setattr("sys.argv", ["headscope", *words])
    assert_refused(CliRunner().invoke(app, words), "the command line is not UTF-8 text")
    assert os.listdir(place).count("folder\udcff") == 0


HOSTILE = st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Po", "Ll", "Nd"]), max_size=30)


@example("-\x1b")
@example("a\x85b\u2028c\u202ed")
@given(HOSTILE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_of_a_model_steers_the_terminal(place: Path, name: str) -> None:
    for arguments in (["score", "--", name], ["models", f"--card={name}"]):
        assert_refused(CliRunner().invoke(app, arguments), "")
    assert_nothing_left(place)
