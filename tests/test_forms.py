"""Forms: fields from config models, settings from what was filled in, and command lines that give them back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveInt
from typer.testing import CliRunner

import app.bench_run
import app.calibrate_run
import app.circuit_run
import app.compare_run
import app.inspection
import app.policies_run
import app.scoring
import app.train_run
from app.cli import app as cli
from app.forms import COMMANDS, NO_FORM, argv_of, choices, fields_of, find_command, parse_form, values_of
from app.forms.commands import ExportConfig, ReportConfig
from app.inspect_config import InspectConfig
from app.lab_run import LabSettings
from app.live.requests import LabRequest
from app.score_config import ScoreConfig
from circuits.methods import METHODS
from circuits.policies.catalog import POLICIES
from circuits.validation import EXPERIMENTS
from headscope.config import Config
from headscope.errors import ConfigError, UnknownNameError
from headscope.mixers.registry import variants
from headscope.models import catalog
from headscope.models.loading import resolve_dtype
from headscope.tasks import NEEDLES
from headscope.tasks.contrast_catalog import CONTRAST_TASKS
from headscope.tasks.labelled_catalog import LABELLED
from headscope.tasks.synthetic_catalog import synthetic_tasks
from probes import PROBES

SCORE = {field.name: field for field in fields_of(ScoreConfig)}


class Kinds(Config):
    """One setting of each kind.

    Attributes:
        words: texts, one
            per line.
        share: a fraction.
        flag: yes or no.
        mode: how.
    """

    words: tuple[str, ...] = ()
    share: float = Field(default=0.5, ge=0, le=1)
    flag: bool = False
    mode: Literal["fast", "exact"] = "fast"
    sizes: tuple[PositiveInt, ...] = (1,)


def test_settings_and_forms_load_no_torch() -> None:
    code = (
        "import sys, app.forms, app.jobs.store, app.score_config; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_lazy_rooms_list_and_have_their_names_and_census_stays_a_function() -> None:
    code = """
import importlib, sys
rooms = [importlib.import_module(name) for name in ("probes", "circuits", "headscope.readings")]
print(all(set(room.__all__) <= set(dir(room)) for room in rooms), "torch" in sys.modules)
import probes.census  # sets the attribute of the package, too
print(all(hasattr(room, name) for room in rooms for name in room.__all__), any(hasattr(room, "no") for room in rooms))
print(callable(probes.census), probes.census.__name__)"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.split("\n")[:3] == ["True False", "True False", "True census"]


def test_offered_names_are_those_of_the_registries() -> None:
    assert list(PROBES) == list(choices.PROBES)
    assert set(EXPERIMENTS) == set(choices.HEAD_CLASSES)
    assert [needle.name for needle in NEEDLES] == list(choices.NEEDLES)
    assert [entry.name for entry in catalog() if not entry.name.isupper() and "/" not in entry.name] == list(
        choices.MODELS
    )
    assert len({resolve_dtype(name) for name in choices.DTYPES}) == 3


def test_every_setting_of_a_score_run_but_its_hashes_is_a_field_with_a_help_text() -> None:
    assert set(SCORE) == set(ScoreConfig.model_fields) - {"texts"}
    assert all(field.help for field in SCORE.values())
    assert next(iter(SCORE)) == "model"


def test_fields_of_a_score_run_have_kind_bounds_and_choices() -> None:
    assert (SCORE["model"].kind, SCORE["model"].required, SCORE["model"].free) == ("text", True, True)
    assert (SCORE["seed"].kind, SCORE["seed"].minimum, SCORE["seed"].maximum) == ("int", 0, 2**32 - 1)
    assert (SCORE["ablation"].kind, SCORE["ablation"].choices) == ("choice", ("zero", "uniform", "to_bos"))
    assert (SCORE["ks"].kind, SCORE["ks"].item, SCORE["ks"].default, SCORE["ks"].minimum) == (
        *("list", "int"),
        (1, 5, 20),
        1,
    )
    assert (SCORE["checks"].kind, SCORE["checks"].default) == ("choices", ("all",))
    assert (SCORE["prose_length"].kind, SCORE["prose_length"].default) == ("int", None)
    assert {name for name, field in SCORE.items() if field.group == "basic"} == {
        *("model", "probes", "checks", "lengths", "draws", "seed")
    }


def test_fields_of_other_kinds() -> None:
    words, share, flag, mode, _ = fields_of(Kinds)
    assert (words.kind, words.item, words.help) == ("list", "text", "texts, one per line.")
    assert (share.kind, share.minimum, share.maximum) == ("float", 0, 1)
    assert (flag.kind, flag.default) == ("bool", False)
    assert (mode.kind, mode.choices) == ("choice", ("fast", "exact"))


def test_empty_fields_are_defaults() -> None:
    blank: dict[str, Any] = dict.fromkeys(SCORE, "") | {"model": " smollm2 ", "probes": [], "checks": []}
    assert parse_form(ScoreConfig, blank) == ScoreConfig(model="smollm2")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("lengths", "256, 512 1024", (256, 512, 1024)),
        ("depths", "0.5", (0.5,)),
        ("checks", ["none"], ()),
        ("checks", ["all"], None),
        ("checks", ["sink"], ("sink",)),
        ("probes", ["sink_rate"], ("sink_rate",)),
        ("draws", "50", 50),
        ("haystack", "a b.txt", Path("a b.txt")),
    ],
    ids=str,
)
def test_what_is_filled_in_becomes_the_setting(name: str, given: Any, expected: Any) -> None:
    assert getattr(parse_form(ScoreConfig, {"model": "m", name: given}), name) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "'model' is empty"),
        ({"model": "m", "draws": "0"}, "'draws' cannot be '0'"),
        ({"model": "m", "draws": "many"}, "'draws' cannot be 'many'"),
        ({"model": "m", "lengths": "12, x"}, "'lengths' cannot hold 'x'"),
        ({"model": "m", "ablation": "mean"}, "one of zero, uniform, to_bos"),
        ({"model": "m", "checks": ["none", "sink"]}, "'checks' cannot be"),
        ({"model": "m", "checks": ["sinks"]}, "'checks' cannot be 'sinks'"),
        ({"model": "m", "texts": {"haystack": "0"}}, "no field 'texts'"),
        ({"model": "m", "__class__": "x"}, "no field '__class__'"),
    ],
    ids=str,
)
def test_wrong_fields_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_form(ScoreConfig, values)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
names = st.lists(texts, max_size=3).map(tuple)
paths = st.none() | texts.map(Path)
# drawn as plain data: the validators, checked by beartype in tests, use the random module
anything = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["smollm2", "planted:all", "-x", "--", "--help", "./a b", "1", "null"]) | texts,
        "seed": st.integers(0, 2**32 - 1),
        "method": st.sampled_from(["flash", "dense"]),
        "draws": st.integers(1, 10_000),
        "prose_length": st.none() | st.integers(32, 4096),
        "lengths": st.lists(st.integers(1, 9999), max_size=3, unique=True).map(tuple),
        "depths": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3).map(tuple),
        "ks": st.lists(st.integers(1, 99), min_size=1, max_size=3).map(tuple),
        "probes": names,
        "needles": names,
        "checks": st.none() | names,
        "haystack": paths,
        "needle_file": paths,
        "device": texts,
        "ablation": st.sampled_from(["zero", "mean", "uniform"]),
    }
)


def test_an_inspection_is_written_as_its_command_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    filled_in = {"model": "smollm2", "prompts": "one text\n[2]", "stages": ["weights"], "long_length": "64"}
    wanted, seen = parse_form(InspectConfig, filled_in), list[InspectConfig]()

    def keep(config: InspectConfig, **_: object) -> Path:
        seen.append(config)
        return Path("run")

    monkeypatch.setattr(app.inspection, "run_inspection", keep)
    words = find_command("inspect").words(wanted, Path("r"))
    assert words[:4] == ["inspect", "smollm2", "--stages", "weights"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert seen == [wanted]
    assert (wanted.prompts, wanted.long_length) == (("one text", "[2]"), 64)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[ScoreConfig]:
    """The settings that the command line would have started a run with."""
    seen = list[ScoreConfig]()

    def keep(config: ScoreConfig, **_: object) -> Path:
        seen.append(config)
        return Path("run")

    monkeypatch.setattr(app.scoring, "run_scores", keep)
    return seen


def test_command_line_parses_back_to_the_same_settings(parsed: list[ScoreConfig]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(anything, texts)
    def holds(wanted: dict[str, Any], root: str) -> None:
        config = ScoreConfig.parse(wanted)
        parsed.clear()
        result = CliRunner().invoke(cli, find_command("score").words(config, Path(root)))
        assert result.exit_code == 0, result.output
        assert parsed == [config]

    holds()


@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["smollm2", "./folder"]),
            "seed": st.integers(0, 2**32 - 1),
            "lengths": st.lists(st.integers(1, 9999), max_size=3, unique=True).map(tuple),
            "depths": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3).map(tuple),
            "checks": st.none() | st.lists(st.sampled_from(choices.HEAD_CLASSES), unique=True).map(tuple),
            "ablation": st.sampled_from(choices.ABLATIONS),
            "haystack": paths,
        }
    )
)
def test_a_form_filled_in_from_settings_gives_them_back(wanted: dict[str, Any]) -> None:
    config = ScoreConfig.parse(wanted)
    assert parse_form(ScoreConfig, values_of(config)) == config


def test_command_lines_are_as_a_person_would_write_them() -> None:
    assert argv_of("score", ScoreConfig(model="smollm2")) == ["score", "smollm2"]
    config = ScoreConfig(model="smollm2", draws=50, checks=(), haystack=Path("texts/a.txt"), texts={"haystack": "0"})
    words = ["--checks", "none", "--draws", "50", "--haystack", "texts/a.txt"]
    assert argv_of("score", config) == ["score", "smollm2", *words]
    config = ScoreConfig(model="smollm2", probes=("induction", "sink"), seed=1, ks=(1, 2), depths=(0.5,))
    words = ["--depths", "0.5", "--probes", "induction,sink", "--seed", "1", "--set", "ks=[1,2]"]
    said = argv_of("score", config)
    assert sorted(said) == sorted(["score", "smollm2", *words])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"probes": ("a,b",)}, ["--set", 'probes=["a,b"]']),
        ({"checks": ("none",)}, ["--set", 'checks=["none"]']),
        ({"needles": ("x.json",)}, ["--set", 'needles=["x.json"]']),
        ({"haystack": Path("-x")}, ["--set", 'haystack="-x"']),
    ],
    ids=str,
)
def test_what_an_option_would_read_otherwise_is_set(setting: dict[str, Any], words: list[str]) -> None:
    assert argv_of("score", ScoreConfig(model="m", **setting)) == ["score", "m", *words]


def test_a_question_to_the_lab_is_written_as_its_command_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[LabRequest]()

    def keep(request: LabRequest, root: Path) -> Path:
        asked.append(request)
        return root

    monkeypatch.setattr(sys.modules["app.commands.lab"], "_run", keep)

    @settings(max_examples=40, deadline=None)
    @given(
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(["smollm2", "-x", "--", "./a b"]),
                "text": st.sampled_from(["--", "-x", "a\nb", " "]) | texts,
                "heads": st.lists(st.sampled_from(["L1H1", "L0H3"]), max_size=2).map(tuple),
                "ablation": st.sampled_from(["zero", "mean", "resample"]),
                "random": st.integers(0, 20),
                "a": st.none() | texts,
                "b": st.none() | texts,
                "position": st.integers(-4096, 4095),
                "seed": st.integers(0, 2**32 - 1),
            }
        )
    )
    def holds(wanted: dict[str, Any]) -> None:
        config = LabSettings.parse(wanted)
        asked.clear()
        result = CliRunner().invoke(cli, find_command("lab").words(config, Path("r")))
        assert result.exit_code == 0, result.output
        assert asked == [config.request]

    holds()


@pytest.mark.parametrize(
    ("command", "filled_in", "words"),
    [
        ("circuit", {"model": "planted:ioi"}, []),
        (
            "circuit",
            {"model": "planted:ioi", "task": "induction", "methods": ["cdt", "eap"], "pairs": "8", "units": ["head"]},
            ["--task", "induction", "--method", "cdt,eap", "--pairs", "8", "--set", 'units=["head"]'],
        ),
        ("circuit-bench", {"model": "planted:ioi", "methods": []}, []),
        (
            "circuit-bench",
            {"model": "planted:ioi", "tasks": ["ioi", "docstring"], "examples": "5, 10", "edge_truth": True},
            ["--tasks", "ioi,docstring", "--examples", "5,10", "--set", "edge_truth=true"],
        ),
        ("calibrate", {"model": "planted:ioi"}, []),
        (
            "calibrate",
            {"model": "planted:ioi", "sets": ["topic", "lm-eval:rte"], "test": "50", "random_draws": "9", "texts": "3"},
            ["--set", 'sets=["topic","lm-eval:rte"]', "--test", "50", "--draws", "9", "--set", "texts=3"],
        ),
        ("policies", {"model": "planted:ioi"}, []),
        (
            "policies",
            {"model": "planted:ioi", "policies": ["h2o", "duo"], "tasks": ["text"], "rules": ["razor"]}
            | {"budgets": "0.5 1", "lengths": "64", "gate_steps": "7", "window": "0.25"},
            [
                *("--policies", "h2o,duo", "--tasks", "text", "--rules", "razor", "--budgets", "0.5,1.0"),
                *("--lengths", "64", "--gate-steps", "7", "--set", "window=0.25"),
            ],
        ),
    ],
    ids=[f"{name}{more}" for name in ("circuit", "bench", "calibrate", "policies") for more in (", defaults", "")],
)
def test_a_run_is_written_as_its_command_reads_it(
    command: str, filled_in: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    form, seen = find_command(command), list[Config]()

    def keep(config: Config, **_: object) -> Path:
        seen.append(config)
        return Path("run")

    monkeypatch.setattr(app.circuit_run, "run_circuit", keep)
    monkeypatch.setattr(app.bench_run, "run_bench", keep)
    monkeypatch.setattr(app.calibrate_run, "run_calibration", keep)
    monkeypatch.setattr(app.policies_run, "run_policies", keep)
    wanted = parse_form(form.config, filled_in)
    line = form.words(wanted, Path("r"))
    assert line[:2] == [command, "planted:ioi"]
    assert sorted(line[2:]) == sorted([*words, "--out", "r"])
    assert CliRunner().invoke(cli, line).exit_code == 0
    assert seen == [wanted]


@pytest.mark.parametrize(
    ("command", "filled_in", "words"),
    [
        ("train", {}, ["train", "mqar"]),
        (
            "train",
            {"task": "induction", "variants": ["softmax", "linear"], "rates": "0.003, 0.01", "seeds": "2"}
            | {"options": "task.d_vocab=40\ndecoder.conv=4", "stop_at": "0.95"},
            [
                *("train", "induction", "--variants", "softmax,linear", "--rates", "0.003,0.01", "--seeds", "2"),
                *("--set", "stop_at=0.95", "--option", "task.d_vocab=40", "--option", "decoder.conv=4"),
            ],
        ),
        ("compare", {"models": ["softmax", "linear"]}, ["compare", "softmax", "linear"]),
        (
            "compare",
            {"models": ["softmax"], "run": "latest", "lengths": "48 64", "draws": 50},
            ["compare", "softmax", "--run", "latest", "--lengths", "48,64", "--draws", "50"],
        ),
    ],
    ids=["train, defaults", "train", "compare, defaults", "compare"],
)
def test_trainings_and_comparisons_are_written_as_their_commands_read_them(
    command: str, filled_in: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    form, seen = find_command(command), list[Config]()

    def keep(config: Config, **_: object) -> Path:
        seen.append(config)
        return Path("run")

    monkeypatch.setattr(app.train_run, "run_train", keep)
    monkeypatch.setattr(app.compare_run, "run_compare", keep)
    wanted = parse_form(form.config, filled_in)
    line = form.words(wanted, Path("r"))
    n_subjects = 2 if words[2:3] == ["linear"] else 1
    assert line[: 1 + n_subjects] == words[: 1 + n_subjects]
    assert sorted(line) == sorted([*words, "--out", "r"])
    assert CliRunner().invoke(cli, line).exit_code == 0
    told = wanted.model_dump(exclude={"options", "task_settings", "decoder"})
    assert {name: value for name, value in seen[0].model_dump().items() if name in told} == told
    if "options" in filled_in:
        assert seen[0].model_dump()["task_settings"] == {"d_vocab": 40}
        assert seen[0].model_dump()["decoder"] == {"conv": 4}


def test_variants_and_tasks_are_offered_by_name_and_odd_lines_are_refused() -> None:
    train = {field.name: field for field in fields_of(find_command("train").config)}
    assert set(train["variants"].choices) == {name for name, one in variants().items() if one.status == "built"}
    assert set(train["task"].choices) == set(synthetic_tasks())
    for values, said in (({"options": "pairs=4"}, "task.KEY=VALUE"), ({"options": "model.x=4"}, "'options'")):
        with pytest.raises(ConfigError, match=said):
            parse_form(find_command("train").config, values)


def test_tasks_and_methods_are_offered_by_name() -> None:
    fields = {field.name: field for field in fields_of(find_command("circuit").config)}
    assert set(fields["task"].choices) == set(CONTRAST_TASKS)
    assert set(fields["methods"].choices) == set(METHODS)
    assert fields["ablation"].choices == ("resample", "mean")
    assert "options" not in fields
    for name in ("task", "tasks"):
        form = find_command("circuit" if name == "task" else "circuit-bench")
        with pytest.raises(ConfigError, match=f"'{name}' cannot be 'no'"):
            parse_form(form.config, {"model": "m", name: "no"})


def test_data_sets_policies_and_tasks_of_their_commands_are_offered_by_name() -> None:
    calibrate, policies = (
        {field.name: field for field in fields_of(find_command(name).config)} for name in ("calibrate", "policies")
    )
    assert (set(calibrate["sets"].choices), calibrate["sets"].free) == (set(LABELLED), True)
    assert set(policies["policies"].choices) == set(POLICIES)
    assert policies["tasks"].choices[:2] == ("needle", "multi-needle")
    assert policies["rules"].choices == ("duo-gate", "razor", "retrieval", "induction")
    assert calibrate["opposite_beta"].default is None
    assert not {"act", "selection"} & set(calibrate)  # settings with parts of their own: for --set
    assert "options" not in policies


def test_report_and_export_name_their_run_and_files() -> None:
    report, export = find_command("report"), find_command("export")
    assert report.words(ReportConfig.parse({"run": "a-1"}), Path("r")) == ["report", "a-1", "--root", "r"]
    config = ExportConfig.parse({"run": "a-1", "out": "-x.json", "format": "json"})
    assert export.words(config, Path("r")) == ["export", "a-1", "--format=json", "--out=-x.json", "--root", "r"]
    with pytest.raises(ConfigError, match=r"'run' cannot be '\.\./a'"):
        ReportConfig.parse({"run": "../a"})


def test_every_form_has_a_command_of_its_name() -> None:
    registered = {
        command.callback.__name__.replace("_", "-") for command in cli.registered_commands if command.callback
    }
    assert {form.name for form in COMMANDS} == registered - {"show", "runs", "models", "variants", "serve"}
    assert all(name in NO_FORM for name in ("show", "runs", "models", "variants", "serve"))
    assert all(fields_of(form.config) for form in COMMANDS)
    with pytest.raises(UnknownNameError, match="'scores'"):
        find_command("scores")
