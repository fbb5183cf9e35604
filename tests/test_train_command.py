"""`headscope train` and `headscope compare` from end to end: runs, stops, resumes, bad input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import app.train_cells
import app.train_run
from app.cli import app as cli
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.runs import Run
from headscope.training.sweep import SweepConfig
from headscope.training.trainer import Trainer

TASK = ["--option", "task.d_vocab=16", "--option", "task.length=12", "--option", "task.pairs=2"]
SHORT = [*TASK, "--widths", "16", "--steps", "16", "--batch", "8", "--set", "evaluate_every=8", "--set", "evaluated=16"]
VARIANTS = ["--variants", "softmax,DeltaNet", "--rates", "0.01,0.003", "--seeds", "2"]
CELLS = [f"{name}.16.{rate}.{seed}" for name in ("softmax", "delta") for rate in ("0.01", "0.003") for seed in (0, 1)]


def run_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(root: Path) -> Run:
    result = run_command("train", "mqar", *VARIANTS, *SHORT, "--pictures", 2, "--out", root)
    assert result.exit_code == 0, result.output
    (path,) = result.stdout.splitlines()
    return Run.open(Path(path), verify=True)


@pytest.fixture(scope="module")
def compared(trained: Run, root: Path) -> Run:
    words = ["softmax", "delta", "--run", trained.manifest.id, "--examples", 16, "--draws", 3, "--lengths", "10,14"]
    result = run_command("compare", *words, "--out", root)
    assert result.exit_code == 0, result.output
    (path,) = result.stdout.splitlines()
    return Run.open(Path(path), verify=True)


def test_a_run_has_a_stage_for_every_training_and_a_summary(trained: Run) -> None:
    assert trained.manifest.planned == (*CELLS, "summary")
    assert trained.is_complete
    record = trained.record(CELLS[0])
    assert [point["step"] for point in record["curve"]] == [0, 8, 16]
    assert 0 <= record["accuracy"] <= 1
    assert record["steps_pictured"] == [0, 16]
    assert trained.tensor(CELLS[0], "share").shape == (2, 2, 1, 12, 12)
    assert not list(trained.path.glob("partial*"))


def test_the_summary_is_the_best_rate_of_every_variant(trained: Run) -> None:
    rows = trained.record("summary")["variants"]
    assert [row["variant"] for row in rows] == ["softmax", "delta"]
    for row in rows:
        held = {
            rate: np.mean([trained.record(f"{row['variant']}.16.{rate}.{seed}")["held_out"] for seed in (0, 1)])
            for rate in ("0.01", "0.003")
        }
        assert row["rates"] == pytest.approx(held)
        assert held[f"{row['rate']:g}"] == max(held.values())
        told = [trained.record(f"{row['variant']}.16.{row['rate']:g}.{seed}")["accuracy"] for seed in (0, 1)]
        assert row["accuracies"] == told


def test_a_cell_is_the_training_that_its_settings_make(trained: Run) -> None:
    sweep = SweepConfig.parse(trained.manifest.config)
    cell = sweep.cells[0]
    trainer = Trainer(sweep.training(cell))
    training = trainer.run()
    record = trained.record(cell.stage)
    assert record["accuracy"] == training.tested
    kept = {name: trained.tensor(cell.stage, f"weights.{name}") for name in trainer.model.state_dict()}
    assert all(np.array_equal(kept[name], part.numpy()) for name, part in trainer.model.state_dict().items())
    assert record["state_size"] == trainer.model.state_size(12)


def test_a_stopped_run_resumes_to_the_same_numbers(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_cell, calls = app.train_run._train_cell, list[str]()  # pyright: ignore[reportPrivateUsage]

    def stop_at_the_third(writer: Any, config: Any, cell: Any, *more: Any) -> None:
        calls.append(cell.stage)
        if len(calls) == 3:
            raise KeyboardInterrupt
        train_cell(writer, config, cell, *more)

    monkeypatch.setattr(app.train_run, "_train_cell", stop_at_the_third)
    stopped = run_command("train", "mqar", *VARIANTS, *SHORT, "--pictures", 2, "--out", tmp_path)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert re.search(r"2 of 9 stages are kept in \S+\.tmp\. Continue with: headscope train --resume", stopped.stderr)
    monkeypatch.setattr(app.train_run, "_train_cell", train_cell)
    again = run_command("train", "--resume", "latest", "--out", tmp_path)
    assert again.exit_code == 0, again.output
    run = Run.open(Path(again.stdout.strip()))
    for stage in CELLS:
        assert run.record(stage)["curve"][-1] == trained.record(stage)["curve"][-1]
        assert run.record(stage)["accuracy"] == trained.record(stage)["accuracy"]
    assert run.record("summary") == trained.record("summary")


def test_a_training_that_was_cut_in_the_middle_goes_on_from_its_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["mqar", "--variants", "softmax", "--rates", "0.01", "--seeds", "1", *SHORT, "--set", "stop_at=2"]
    whole = run_command("train", *words, "--out", tmp_path / "whole")
    monkeypatch.setattr(app.train_cells, "_SAVE_EVERY_S", 0.0)
    update, steps = Trainer.update, list[int]()

    def cut(self: Trainer, batch: Any) -> Any:
        steps.append(self.step)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(Trainer, "update", cut)
    assert run_command("train", *words, "--out", tmp_path / "cut").exit_code == 130
    steps.clear()
    again = run_command("train", "--resume", "latest", "--out", tmp_path / "cut")
    assert again.exit_code == 0, again.output
    assert steps == list(range(8, 16)), "from the evaluation after step 8"
    first, second = (Run.open(Path(one.stdout.strip())).record("softmax.16.0.01.0") for one in (whole, again))
    assert first["curve"][1:] == second["curve"][1:]
    assert first["accuracy"] == second["accuracy"]


def test_a_comparison_describes_every_seed_of_the_best_rate(trained: Run, compared: Run) -> None:
    best = {row["variant"]: row["rate"] for row in trained.record("summary")["variants"]}
    stages = [f"{name}.16.{best[name]:g}.{seed}" for name in ("softmax", "delta") for seed in (0, 1)]
    assert list(compared.manifest.planned) == [*stages, "summary"]
    report = compared.record(stages[0])
    assert (report["variant"], report["n"], report["kind"]) == ("softmax", 16, "explicit")
    assert [head["head"] for head in report["heads"]] == ["L0H0", "L1H0"]
    assert set(report["lengths"]) == {"10", "14"}
    assert compared.tensor(stages[0], "moved").shape == (2, 1, 12, 12)
    texts = [compared.tensor(stage, "tokens").tolist() for stage in stages]
    assert texts == [texts[0]] * 4, "one text for all"


def test_a_comparison_reads_the_weights_of_the_run(trained: Run, compared: Run) -> None:
    stage = compared.manifest.planned[0]
    model = Decoder(DecoderConfig.parse(trained.record(stage)["decoder"]))
    assert compared.record(stage)["parameters"] == sum(part.numel() for part in model.parameters())


BAD: dict[str, tuple[list[str], str]] = {
    "no task": (["train"], "give either a TASK to train or --resume RUN. See what there is: headscope train --help"),
    "no models": (["compare"], "give either a MODEL... to compare or --resume RUN. .*"),
    "unknown task": (["train", "mqr"], r"no (synthetic )?task is called 'mqr'. Did you mean 'mqar'\?.*"),
    "unknown variant": (
        ["train", "mqar", "--variants", "sofmax"],
        r"no variant is called 'sofmax'. Did you mean 'softmax'\? List them: headscope variants\.",
    ),
    "variant left out": (
        ["train", "mqar", "--variants", "policy-h2o"],
        "the variant 'policy-h2o' cannot be trained .*",
    ),
    "no variants": (["train", "mqar", "--variants", ","], "--variants cannot be ',': .*"),
    "no seeds": (["train", "mqar", "--seeds", "0"], r"Invalid value for '--seeds': .* 1\. See: headscope .*"),
    "no rates": (["train", "mqar", "--rates", ""], "--rates is empty. Give it a value, or leave it out."),
    "rate above 1": (["train", "mqar", "--rates", "3"], "the setting 'rates' cannot hold 3.0: .*"),
    "no width": (["train", "mqar", "--widths", "0"], "the setting 'widths' cannot hold 0: .*"),
    "width in parts": (["train", "mqar", "--widths", "6.5"], "--widths cannot be '6.5': .*"),
    "length that does not fit": (["train", "mqar", "--option", "task.length=7"], "settings cannot be .* is odd.*"),
    "rate in words": (["train", "mqar", "--rates", "fast"], "--rates cannot be 'fast': give numbers with commas, .*"),
    "rate of zero": (["train", "mqar", "--rates", "0"], "the setting 'rates' cannot hold 0.0: .*"),
    "option of nothing": (["train", "mqar", "--option", "model.x=1"], "--option cannot be 'model': give task.KEY.*"),
    "unknown option of the task": (["train", "mqar", "--option", "task.paris=4"], ".*'paris'.*Did you mean 'pairs'.*"),
    "unknown option of the decoder": (
        ["train", "mqar", "--option", "decoder.heads_=4"],
        r"there is no setting 'heads_'.*Did you mean 'heads'\?",
    ),
    "task too long": (["train", "mqar", "--option", "task.pairs=40"], ".*pairs.*"),
    "bias without scores": (
        ["train", "mqar", "--variants", "linear", "--option", "decoder.position=alibi"],
        ".*alibi.*",
    ),
    "no checkpoints": (["compare", "policy-h2o"], "no variant with checkpoints of mqar is called 'policy-h2o'.*"),
    "unknown checkpoint": (["compare", "checkpoint:nothing"], "no checkpoint is called 'nothing'.*"),
    "unknown variant to compare": (
        ["compare", "sofmax"],
        r"no variant is called 'sofmax'. Did you mean 'softmax'\? List them: headscope variants\.",
    ),
    "length of one token": (["compare", "softmax", "--lengths", "1"], "the setting 'lengths' cannot hold 1: .*"),
    "length in words": (["compare", "softmax", "--lengths", "long"], "--lengths cannot be 'long': .*"),
    "no cuts": (["compare", "softmax", "--draws", "0"], r"Invalid value for '--draws': .* 1\. See: headscope .*"),
    "no trainings": (["compare", "softmax", "--seeds", "0"], r"Invalid value for '--seeds': .* 1\. See: headscope .*"),
    "unknown run": (["compare", "softmax", "--run", "nothing"], "no run is called 'nothing'.*"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_no_folder(case: str, tmp_path: Path) -> None:
    given, message = BAD[case]
    result = run_command(*given, "--out", tmp_path / "runs")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(f"error: {message}", line), line
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_run_of_another_kind_is_no_source_of_models(compared: Run, root: Path) -> None:
    result = run_command("compare", "softmax", "--run", compared.manifest.id, "--out", root)
    assert result.exit_code == 2
    assert "--run wants a train run" in result.stderr


def test_a_variant_that_the_run_did_not_train_is_refused(trained: Run, root: Path) -> None:
    result = run_command("compare", "fox", "--run", trained.manifest.id, "--out", root)
    assert result.exit_code == 2
    assert "no variant of the run" in result.stderr
