"""`headscope calibrate` from end to end, on a small random model that spells bytes: the run, stops and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

import headscope.models
from app.cli import app as cli
from app.report.build import render_report
from app.views.calibration import CalibrationRun, Key, load_selection
from app.views.calibration_words import overall
from app.views.table import finite
from headscope.models import load
from headscope.models.bridged import BridgedModel
from headscope.runs import Run, RunWriter
from headscope.tasks.labelled_catalog import LABELLED

SETS, SEEDS = ("commonsense",), (5, 6)
SHORT = [
    *("--sets", ",".join(SETS), "--shots", "1", "--select", "4", "--test", "6", "--top", "2", "--draws", "2"),
    *("--seeds", "2", "--seed", "5", "--beta", "0.3", "--device", "cpu", "--set", "texts=2"),
    *("--set", 'act={"skip_first":0,"skip_last":0,"alpha":3}'),
]
STAGES = [
    "classes",
    *(str(Key(name, seed, part)) for name in SETS for seed in SEEDS for part in ("select", "test")),
    "sinks",
]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte: any text can be spelled."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: place for place, letter in enumerate(["<bos>", *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers in a folder."""
    made = tmp_path_factory.mktemp("models") / "bytes"
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for weight in model.parameters():
            weight.data.normal_(1.0 if weight.ndim == 1 else 0.0, 0.3)
    model.save_pretrained(made)
    byte_tokenizer().save_pretrained(made)
    return made


@pytest.fixture(scope="module", autouse=True)
def one_model(folder: Path) -> Iterator[None]:
    """The model is loaded once: loading it says nothing about the command."""
    model: BridgedModel = load(str(folder), device="cpu")

    def loaded(name: str, **more: Any) -> Any:
        return model if name == str(folder) else load(name, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headscope.models, "load", loaded)
        yield


def run_command(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Run, Result]:
    """The short run when nothing stops it, and what the command printed."""
    result = run_command("calibrate", folder, *SHORT, "--out", tmp_path_factory.mktemp("whole"))
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.removesuffix("\n"))), result


def test_standard_output_is_the_path_of_a_whole_run(whole: tuple[Run, Result]) -> None:
    run, result = whole
    assert result.stdout == f"{run.path}\n"
    assert run.is_complete
    assert run.manifest.kind == "calibrate"
    assert [stage.name for stage in run.manifest.stages] == list(run.manifest.planned) == STAGES
    assert {"induction", "previous_token", "sink"} <= set(run.scores())


def test_options_end_up_in_the_settings(whole: tuple[Run, Result]) -> None:
    config = whole[0].manifest.config
    assert (config["sets"], config["seeds"], config["random_draws"], config["texts"]) == (list(SETS), 2, 2, 2)
    assert config["selection"]["method"] == "first-order"
    assert (config["act"]["skip_first"], config["act"]["alpha"], config["act"]["beta"]) == (0, 3.0, 0.3)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_trial_is_read_as_it_was_judged(whole: tuple[Run, Result], name: str, seed: int) -> None:
    found = CalibrationRun(whole[0])
    trial = found.trial(name, seed)
    assert trial.selection.heads == load_selection(whole[0], Key(name, seed, "select")).heads
    assert 1 <= len(trial.selection.heads) <= 2
    for one in found.effects(name, seed):
        if one.kind != "random":
            (arm,) = trial.of(one.kind)
            assert (one.accuracy, one.change, one.margin_change) == (arm.accuracy, arm.change, arm.margin_change)
            assert (one.gained, one.lost, one.n) == (arm.gained, arm.lost, 6)
    drawn = [arm.answers.accuracy - trial.arms[0].answers.accuracy for arm in trial.of("random")]
    assert next(one for one in found.effects(name, seed) if one.kind == "random").draws == pytest.approx(drawn)


def test_chosen_heads_and_sinks_are_those_of_every_set(whole: tuple[Run, Result]) -> None:
    found = CalibrationRun(whole[0])
    assert tuple(found.sinks) == SETS
    for name in SETS:
        shown = found.sinks[name].shown
        assert shown.head == found.trial(name, SEEDS[0]).selection.heads[0]
        assert shown.before.sum(1) == pytest.approx(1, abs=1e-5)
        assert shown.after.sum(1) == pytest.approx(1, abs=1e-5)


def test_show_and_report_say_what_came_of_it(whole: tuple[Run, Result]) -> None:
    run, shown = whole[0], run_command("show", whole[0].path)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    for said in ("Does calibration help?", "Are the same heads chosen?", "Tokens that are sinks most often"):
        assert said in text
    page = render_report(run)
    assert overall(CalibrationRun(run)).replace("'", "&#39;") in page
    ids = re.findall(r'<figure class="plot" id="(calibration-[^"]+)"', page)
    assert ids == [f"calibration-{name}" for name in ("change", "chosen", "sinks", "sink-maps")] + [
        f"calibration-pattern-{name}" for name in SETS
    ]


def test_export_writes_a_row_per_arm_and_set(whole: tuple[Run, Result]) -> None:
    found = CalibrationRun(whole[0])
    rows = json.loads(run_command("export", whole[0].path, "-f", "json").stdout)["arms"]
    together = [row for row in rows if row["seed"] is None]
    assert [(row["data_set"], row["accuracy"], row["n"], row["p_value"]) for row in together] == [
        (name, one.accuracy.mean, one.n, finite(one.p_value)) for name in SETS for one in found.effects(name)
    ]
    assert len(rows) == 3 * len(together)  # and of each of the two seeds


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that a finished run holds but times."""
    run, found = Run.open(folder), dict[str, Any]()
    found["scores"] = (folder / "scores.parquet").read_bytes()
    for path in sorted((folder / "tensors").iterdir()):
        found[path.name] = {name: (str(one.dtype), one.shape, one.tobytes()) for name, one in load_file(path).items()}
    return found | {stage: run.record(stage) for stage in run.records}


def stopped(out: Path, stage: str, monkeypatch: pytest.MonkeyPatch, *what: object) -> tuple[Path, Result]:
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
        result = run_command("calibrate", *what, "--out", out)
    (made,) = out.iterdir()
    return made, result


def test_stopped_in_a_stage_a_run_resumes_to_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Run, Result], folder: Path
) -> None:
    stage = "commonsense.6.test"
    made, result = stopped(tmp_path, stage, monkeypatch, folder, *SHORT)
    done = STAGES.index(stage)
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"{done} of {len(STAGES)} stages are kept" in result.stderr
    assert f"headscope calibrate --resume {made}" in result.stderr
    resumed = run_command("calibrate", "--resume", made)
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout == f"{made.with_suffix('')}\n"
    assert all(f"] {before} ..." not in resumed.stderr for before in STAGES[:done])
    again, uninterrupted = numbers(made.with_suffix("")), numbers(whole[0].path)
    assert again.keys() == uninterrupted.keys()
    for name, held in again.items():
        assert held == uninterrupted[name], name


BAD: dict[str, tuple[list[str], str]] = {
    "no model": ([], "give either a MODEL to calibrate or --resume RUN.*"),
    "unknown model": (["planted:al"], r"no model is called 'planted:al'. Did you mean 'planted:all'\?.*"),
    "unknown set": (
        ["MODEL", "--sets", "sentiments"],
        r"no data set is called 'sentiments'. Did you mean 'sentiment'\?.*",
    ),
    "set twice": (["MODEL", "--sets", "topic,topic"], "the setting 'sets' cannot be .*: give each once."),
    "unknown method": (["MODEL", "--method", "best"], "'best' is not one of 'per-head', 'greedy', 'first-order'"),
    "negative beta": (["MODEL", "--beta", "-1"], "the setting 'act.beta' cannot be -1.0.*"),
    "beta that changes nothing": (["MODEL", "--beta", "1"], "beta 1 changes nothing: attention to sinks is multiplied"),
    "no heads at all": (
        ["MODEL", "--top", "0"],
        "Invalid value for '--top': Input should be greater than or equal to 1",
    ),
    "unknown setting": (["MODEL", "--set", "text=3"], "there is no setting 'text'.*"),
    "unknown setting of act": (["MODEL", "--set", 'act={"gamma":1}'], r"there is no setting 'act.gamma'.*"),
    "no such layers": (
        ["MODEL", "--set", 'act={"skip_first":7}', "--sets", "topic"],
        "has 2, of which the first 7 and the last 1 are skipped. Skip fewer: --set 'act={\"skip_first\": 0}'$",
    ),
    "no layers by default": (
        ["planted:all"],
        "the first 2 and the last 1 are skipped. Skip fewer: --set 'act={\"skip_first\": 0}'$",
    ),
    "the last layers too": (
        ["MODEL", "--set", 'act={"skip_last":2}'],
        'Skip fewer: --set \'act={"skip_first": 0, "skip_last": 0}\'$',
    ),
    "no such head": (["MODEL", "--set", 'act={"heads":["L9H9"]}', "--sets", "topic"], ".*L9H9.*"),
    "more items than there are": (
        ["MODEL", "--sets", "topic", "--select", "90000", "--set", 'act={"skip_first":0}'],
        "error: .topic. has 624 items .* These fit, and hardly more: 504 selection and 96 test items.",
    ),
    "words that the model cannot spell": (
        ["planted:all", "--sets", "topic", "--set", 'act={"skip_first":0}'],
        "error: .*topic.*",
    ),
    "no such run": (["--resume", "nothing"], "error: .*'?nothing'?.*"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence(name: str, tmp_path: Path, folder: Path) -> None:
    words, said = BAD[name]
    given = [str(folder) if word == "MODEL" else word for word in words]
    result = run_command("calibrate", *given, "--out", tmp_path / "runs")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert re.search(said, " ".join(result.stderr.replace("│", " ").split())), result.stderr
    left = list((tmp_path / "runs").iterdir()) if (tmp_path / "runs").exists() else []
    assert left == []


def test_help_says_what_it_is_for() -> None:
    result = run_command("calibrate", "--help")
    assert result.exit_code == 0
    for word in ("MODEL", "--sets", "--beta", "--draws", "--resume"):
        assert word in result.stdout
    said = " ".join(result.stdout.replace("│", " ").split())
    assert all(f" {name}" in said for name in LABELLED)


def test_a_run_of_another_command_is_not_resumed(whole: tuple[Run, Result]) -> None:
    result = run_command("policies", "--resume", whole[0].path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "was not made by `headscope policies`" in result.stderr
    manifest = json.loads((whole[0].path / "manifest.json").read_text())
    assert manifest["status"] == "done"
