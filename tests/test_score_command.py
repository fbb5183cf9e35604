"""`headscope score` and `headscope models` from end to end, on models whose heads are known or made up."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner, Result

import probes.retrieval
from app.cli import app
from app.scoring import ScoreConfig
from circuits.validation import validate
from headscope.heads import HeadScores
from headscope.models import catalog, load
from headscope.models.bridged import BridgedModel
from headscope.models.planted import PLANTED_NEEDLES
from headscope.models.planted.vocabulary import ORDINARY_WORDS
from headscope.runs import Run
from probes import PROBES, score_all
from probes.probe import Bench

Compare = Callable[[HeadScores, HeadScores], None]
ROOT = Path(__file__).resolve().parent.parent
SMALL = {"needle_examples": 4, "sink_examples": 8, "repeated_examples": 4, "prose_examples": 2}
TINY = [*(word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")), "--draws", "3"]
PLANNED = [
    *("previous_token", "duplicate_token", "induction", "copying", "sink", "local", "entropy", "retrieval"),
    *("check_previous-token", "check_duplicate-token", "check_induction", "check_copying"),
    *("check_sink", "check_local", "check_retrieval"),
]


def headscope(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def score(out: Path, *arguments: object, model: str = "planted:all") -> Run:
    """Score a model with few examples; the run."""
    lengths = [] if "--lengths" in arguments else ["--lengths", "128"]
    result = headscope("score", model, *TINY, *lengths, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.removesuffix("\n")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    """All probes and checks of the planted model, and what the command printed."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    result = headscope("score", "planted:all", *TINY, "--lengths", "128", "--seed", "3", "--out", out)
    assert result.exit_code == 0, result.output
    (folder,) = out.iterdir()
    return Run.open(folder), result


def test_standard_output_is_the_path_of_the_run_and_nothing_else(whole: tuple[Run, Result]) -> None:
    run, result = whole
    assert result.stdout == f"{run.path}\n"
    assert run.is_complete


def test_every_stage_is_announced_on_standard_error_and_then_timed(whole: tuple[Run, Result]) -> None:
    names = ["load", "capability card", *(f"[{i}/{len(PLANNED)}] {name}" for i, name in enumerate(PLANNED, 1))]
    lines = iter(whole[1].stderr.splitlines())
    for name in names:
        assert next(lines) == f"{name} ..."
        while (line := next(lines)).endswith("s left"):
            assert line.startswith(f"{name}: ")
        assert re.fullmatch(rf"{re.escape(name)}: \d+\.\d s", line)
    assert list(lines) == []


def test_manifest_says_what_was_measured_with_what_and_when(whole: tuple[Run, Result]) -> None:
    data = json.loads((whole[0].path / "manifest.json").read_text())
    model, config = data["model"], data["config"]
    assert (data["schema_version"], data["kind"], data["status"], data["seed"]) == (1, "score", "done", 3)
    assert (model["name"], model["revision"], model["n_ctx"]) == ("planted:all", "seed 3", 1024)
    assert [model[key] for key in ("n_layers", "n_heads", "n_kv_heads", "d_head")] == [3, 8, 4, 128]
    expected = {**SMALL, "model": "planted:all", "seed": 3, "draws": 3, "lengths": [128], "ks": [1, 5, 20]}
    assert config.items() >= {**expected, "method": "flash", "checks": None, "ablation": "zero"}.items()
    assert set(config) == set(ScoreConfig.model_fields)
    assert {"python", "headscope", "torch", "transformers", "transformer-lens", "numpy"} <= set(data["versions"])
    assert {"platform", "cpu", "logical_cores", "memory_gb"} <= set(data["machine"])
    assert data["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", data["commit"])
    assert data["command"].split()[0] == "headscope"
    assert data["started"] <= data["stages"][0]["finished"] <= data["finished"]
    assert data["seconds"] >= sum(stage["seconds"] for stage in data["stages"]) > 0
    assert data["peak_memory_bytes"] > 1e8


def test_stages_are_the_probes_and_then_the_checks_in_their_order(whole: tuple[Run, Result]) -> None:
    manifest = whole[0].manifest
    assert list(manifest.planned) == PLANNED
    assert [stage.name for stage in manifest.stages] == PLANNED
    logged = (whole[0].path / "log.txt").read_text()
    assert re.findall(r"^\S+ (\S+): \d+\.\d s$", logged, flags=re.MULTILINE) == PLANNED


def test_run_folder_holds_the_files_of_the_manifest_and_no_other(whole: tuple[Run, Result]) -> None:
    folder = whole[0].path
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    listed = whole[0].manifest.files
    tensors = {f"tensors/{name}.safetensors" for name in PROBES}
    assert set(listed) == {"scores.parquet", "checks.json", "progress.jsonl", "log.txt", *tensors}
    assert set(files) == {*listed, "manifest.json"}
    for name, record in listed.items():
        content = files[name].read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (record.bytes, record.sha256)


def test_definitions_are_those_of_the_probes(whole: tuple[Run, Result]) -> None:
    expected = {one.name: one for probe in PROBES.values() for one in probe.definitions}
    assert whole[0].definitions == expected
    assert len(expected) == 20


def test_card_is_that_of_the_model(whole: tuple[Run, Result]) -> None:
    card = load("planted:all", seed=3, device="cpu").card
    seen = whole[0].card
    assert seen is not None
    assert [(entry.name, entry.ok) for entry in seen.entries] == [(entry.name, entry.ok) for entry in card.entries]
    assert seen["weights"].value == "hand-set weights (seed 3), torch.float32, cpu"


def test_scores_are_those_of_the_probes_with_the_same_settings_to_the_last_bit(
    whole: tuple[Run, Result], assert_same_scores: Compare
) -> None:
    config = ScoreConfig.parse(whole[0].manifest.config)
    model = load("planted:all", seed=3, device="cpu")
    found = whole[0].scores()
    for probe in reversed(PROBES):  # in any order: each probe draws for itself
        for name, expected in score_all(model, probe, config).items():
            assert_same_scores(found.pop(name), expected)
    assert not found


def test_checks_are_those_of_the_circuits_room_with_the_same_settings(whole: tuple[Run, Result]) -> None:
    run = whole[0]
    config = ScoreConfig.parse(run.manifest.config)
    bench = Bench(load("planted:all", seed=3, device="cpu"), config)
    by_class = {one.definition.head_class: one for one in run.scores().values() if one.definition.head_class}
    for check in run.checks():
        if check.head_class in ("sink", "induction", "retrieval"):
            assert check == validate(bench, by_class[check.head_class], draws=3)
    assert [f"check_{check.head_class}" for check in run.checks()] == PLANNED[8:]
    assert {check.seed for check in run.checks()} == {3}


def test_samples_average_to_the_scores(whole: tuple[Run, Result]) -> None:
    for name, scores in whole[0].scores().items():
        samples = whole[0].samples(name)
        assert samples is not None
        assert len(samples) >= scores.n.max()
        np.testing.assert_allclose(np.nanmean(samples, 0), scores.values, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], BridgedModel]) -> Path:
    """A small random Llama saved as a local folder: its weights do not depend on the seed of a run."""
    path = tmp_path_factory.mktemp("models") / "small"
    tiny("llama").plain.save_pretrained(path)
    tiny("llama").tokenizer.save_pretrained(path)
    return path


def numbers(run: Run) -> dict[str, bytes]:
    """The content of every file that holds numbers of heads."""
    paths = [run.path / "scores.parquet", run.path / "checks.json", *sorted((run.path / "tensors").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def test_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path, folder: Path) -> None:
    arguments = ["--probes", "induction,sink", "--set", "ks=[2]"]
    first, again, other = (score(tmp_path, *arguments, "--seed", s, model=str(folder)) for s in (5, 5, 6))
    assert numbers(first) == numbers(again)
    assert first.manifest.id != again.manifest.id
    changed = numbers(other)
    assert all(changed[name] != content for name, content in numbers(first).items() if name != "checks.json")
    assert first.manifest.model.revision == other.manifest.model.revision
    assert first.manifest.model.source == "local folder small"


def test_seed_reaches_the_checks(tmp_path: Path) -> None:
    arguments = ["--probes", "sink", "--set", "ks=[1]", "--draws", "2"]
    first, again, other = (score(tmp_path, *arguments, "--seed", s, model="planted:sink") for s in (5, 5, 6))
    assert first.checks() == again.checks()
    assert [dataclasses.replace(check, seed=5) for check in other.checks()] != first.checks()


def test_probes_are_chosen_by_their_name_or_by_that_of_a_score(tmp_path: Path) -> None:
    run = score(tmp_path, "--probes", "retrieval_activation, induction_tl,induction", "--checks", "none")
    assert run.manifest.planned == ("induction", "retrieval")
    assert list(run.scores()) == ["induction", "induction_tl", "retrieval", "retrieval_activation"]
    assert run.manifest.config["probes"] == ["retrieval_activation", "induction_tl", "induction"]
    assert run.checks() == []


def test_checks_without_a_list_are_those_of_the_chosen_probes(tmp_path: Path) -> None:
    run = score(tmp_path, "--probes", "local,entropy,sink")
    assert run.manifest.planned == ("sink", "local", "entropy", "check_sink", "check_local")
    assert run.manifest.config["checks"] is None


def test_a_list_of_checks_gives_these_once_each(tmp_path: Path) -> None:
    run = score(tmp_path, "--probes", "sink,induction,duplicate_token", "--checks", "sink,duplicate-token,sink")
    assert run.manifest.planned[3:] == ("check_sink", "check_duplicate-token")
    assert [check.head_class for check in run.checks()] == ["sink", "duplicate-token"]


def test_settings_of_the_checks_take_effect(tmp_path: Path) -> None:
    settings = ["--set", "ks=[1]", "--set", "ablation=uniform", "--draws", "2"]
    run = score(tmp_path, "--probes", "sink", *settings, model="planted:sink")
    (check,) = run.checks()
    assert (check.ablation, check.n_draws) == ("uniform", 2)
    assert [(point.k, len(point.random_values)) for point in check.points] == [(1, 2)]
    assert run.manifest.config.items() >= {"ks": [1], "ablation": "uniform", "draws": 2}.items()


def test_settings_of_the_probes_take_effect(tmp_path: Path) -> None:
    settings = {"prose_examples": 3, "sink_examples": 5, "repeated_examples": 6, "prose_length": 40}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = score(tmp_path, "--probes", "entropy,sink,induction", "--checks", "none", *words)
    assert run.manifest.config.items() >= settings.items()
    found = {name: int(scores.n.max()) for name, scores in run.scores().items()}
    assert (found["entropy"], found["sink"], found["induction"]) == (3, 5, 6)


def test_device_dtype_and_reading_take_effect(tmp_path: Path) -> None:
    how = ["--probes", "sink", "--checks", "none"]
    flash = score(tmp_path, *how, model="planted:sink").score("sink")
    run = score(tmp_path, *how, "--device", "cpu", "--dtype", "bfloat16", "--set", "method=dense", model="planted:sink")
    assert run.card is not None
    assert "torch.bfloat16, cpu" in run.card["weights"].value
    assert run.manifest.config.items() >= {"device": "cpu", "dtype": "bfloat16", "method": "dense"}.items()
    assert run.score("sink").ranked()[0] == flash.ranked()[0]
    assert not np.array_equal(run.score("sink").values, flash.values)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the retrieval probe asks for whenever it builds needle prompts."""
    asked: list[dict[str, Any]] = []
    build = probes.retrieval.build_needles

    def spy(model: Any, haystack: str, **options: Any) -> Any:
        asked.append({"haystack": haystack, **options})
        return build(model, haystack, **options)

    monkeypatch.setattr(probes.retrieval, "build_needles", spy)
    return asked


def test_lengths_and_depths_reach_the_needle_prompts(tmp_path: Path, built: list[dict[str, Any]]) -> None:
    words = ["--probes", "retrieval", "--checks", "none", "--lengths", "96,160", "--depths", "0.25, 1"]
    run = score(tmp_path, *words)
    assert [(one["length"], one["depths"], one["n"]) for one in built] == [(96, (0.25, 1.0), 4), (160, (0.25, 1.0), 4)]
    assert run.manifest.config.items() >= {"lengths": [96, 160], "depths": [0.25, 1.0]}.items()
    samples = run.samples("retrieval")
    assert samples is not None
    assert len(samples) == 8


def test_without_lengths_all_default_lengths_that_fit_are_used(tmp_path: Path, built: list[dict[str, Any]]) -> None:
    words = ["--probes", "retrieval", "--checks", "none", "--set", "needle_examples=2"]
    assert headscope("score", "planted:retrieval", *words, "--out", tmp_path).exit_code == 0
    assert [one["length"] for one in built] == [256, 512]  # 1024 and an answer are beyond the context


def test_needles_of_a_file_reach_the_prompts(tmp_path: Path, built: list[dict[str, Any]]) -> None:
    entry = {"name": "mine", "cue": PLANTED_NEEDLES[0].cue, "answer": "lantern amber walrus", "question": "what ?"}
    file = tmp_path / "needles.json"
    file.write_text(json.dumps([{**entry, "end": " ."}]))
    run = score(tmp_path / "runs", "--probes", "retrieval", "--needles", file)
    assert [needle.answer for needle in built[0]["needles"]] == ["lantern amber walrus"]
    assert run.manifest.config.items() >= {"needle_file": str(file), "needles": []}.items()
    assert run.score("retrieval").n.max() == 4
    assert run.checks()[0].baseline == 1.0  # the planted head retrieves them


def test_needles_by_name_reach_the_prompts(
    tmp_path: Path, built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes.retrieval, "rouge1_recall", lambda *_: 1.0)  # the planted model answers no English
    run = score(tmp_path, "--probes", "retrieval", "--checks", "none", "--needles", "vault, soup")
    assert [needle.name for needle in built[0]["needles"]] == ["vault", "soup"]
    assert run.manifest.config["needles"] == ["vault", "soup"]


def test_haystack_of_ones_own_is_what_is_read(tmp_path: Path, built: list[dict[str, Any]]) -> None:
    file = tmp_path / "hay.txt"
    file.write_text(" ".join(ORDINARY_WORDS) * 40)
    words = ["--probes", "entropy,retrieval", "--checks", "none"]
    own, default = score(tmp_path, *words, "--haystack", file), score(tmp_path, *words)
    assert built[0]["haystack"] == file.read_text()[: len(built[0]["haystack"])]  # a part is kept for the checks
    assert built[0]["haystack"][:100] != built[1]["haystack"][:100]
    assert (own.manifest.config["haystack"], default.manifest.config["haystack"]) == (str(file), None)
    assert not np.array_equal(own.score("entropy").values, default.score("entropy").values)


def test_model_that_bypasses_the_registry_is_read_densely_and_what_it_lacks_is_said(
    tmp_path: Path, tiny: Callable[[str], BridgedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headscope.models.load", lambda *_, **__: tiny("gpt_neo, no registry"))
    words = ["--probes", "induction", "--set", "period=10", "--set", "repeated_examples=2", "--out", tmp_path]
    result = headscope("score", "made-up", *words)
    run = Run.open(Path(result.stdout.strip()))
    assert run.manifest.config["method"] == "dense"
    assert run.manifest.planned == ("induction",)
    said = [line for line in result.stderr.splitlines() if not re.match(r".*( \.\.\.|: \d+\.\d s)$", line)]
    assert said[0].startswith("the attention registry is not called in this model: reading its patterns instead")
    assert said[1].startswith("causal checks left out: an edit of z does not reach the logits (")
    assert said[1] in (run.path / "log.txt").read_text()


def test_models_lists_everything_that_can_be_loaded() -> None:
    result = headscope("models")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]
    assert [[entry.name, entry.description] for entry in catalog()] == rows[3:-1]
    assert {"smollm2", "planted:all", "OWNER/NAME", "./FOLDER"} <= {row[0] for row in rows}


def test_models_prints_the_card_in_columns() -> None:
    result = headscope("models", "--card", "planted:all")
    assert result.exit_code == 0
    assert result.stdout.startswith("Capability card of planted:all\n")
    card = load("planted:all", device="cpu").card
    marks = {True: "yes", False: "NO", None: ""}
    lines = result.stdout.splitlines()
    rows = [next(line for line in lines if f" {entry.title} " in f"{line} ") for entry in card.entries]
    assert len({row.index(entry.title) for row, entry in zip(rows, card.entries, strict=True)}) == 1
    for row, entry in zip(rows, card.entries, strict=True):
        assert row.startswith(marks[entry.ok])
        assert entry.value in " ".join(result.stdout.split())


OPTIONS = {
    "score": "MODEL --probes --lengths --depths --needles --haystack --checks --draws --seed --device --dtype --set "
    "--out --resume",
    "inspect": "MODEL --prompt --file --stages --heads --long --seed --device --dtype --set --out --resume",
    "circuit": "MODEL --task --method --pairs --judged --option --seed --device --dtype --set --out --resume",
    "circuit-bench": "MODEL --tasks --method --seeds --examples --option --seed --device --dtype --set --out --resume",
    "calibrate": "MODEL --sets --shots --select --test --method --top --beta --draws --seeds --seed --device --dtype "
    "--set --out --resume",
    "policies": "MODEL --policies --tasks --lengths --examples --budgets --shares --rules --draws --gate-steps "
    "--option --seed --device --dtype --set --out --resume",
    "train": "TASK --variants --rates --seeds --widths --layers --heads --steps --batch --pictures --option --seed "
    "--device --workers --set --out --resume",
    "compare": "MODELS --run --task --seeds --examples --draws --lengths --seed --set --out --resume",
    "lab": "MODEL --text --heads --ablation --policy --kept --position --a --b --random --captures --bos --seed "
    "--device --dtype --out",
    "show": "RUN --probe/-p --top --by --root",
    "report": "RUN --out/-o --root",
    "export": "RUN --format/-f --out/-o --what --root",
    "runs": "--root",
    "models": "--card --device",
    "variants": "NAME --family --json",
    "serve": "--root --port --host --token --model --demo --open",
}


def test_options_of_the_command_line_are_frozen() -> None:
    """A new option is a decision: settings that few people change go through ``--set``."""
    group: Any = typer.main.get_command(app)
    found = {
        name: " ".join("/".join(p.opts) if p.opts[0].startswith("-") else p.opts[0].upper() for p in command.params)
        for name, command in group.commands.items()
    }
    assert found == OPTIONS
    assert [option for parameter in group.params for option in parameter.opts] == ["--version"]


@pytest.mark.slow
def test_new_process_prints_the_path_only_and_no_warning(tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'headscope'; from app.cli import main; main()"
    words = ["score", "planted:sink", *TINY, "--probes", "sink,induction", "--out", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert done.stdout == f"{folder}\n"
    assert Run.open(folder).manifest.command == f"headscope {' '.join(words)}"
    stages = r"(load|capability card|\[\d/4\] \S+)( \.\.\.|: \d+\.\d s|: \d+/\d+, about \d+ s left)"
    assert [line for line in done.stderr.splitlines() if not re.fullmatch(stages, line)] == []
