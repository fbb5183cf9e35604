"""`headscope inspect` from end to end: on a model whose heads are known, and one cheap stage of the embedded one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from typer.testing import CliRunner, Result

from app.cli import app
from app.inspect_config import STAGES, InspectConfig
from app.progress import Progress
from circuits import ablate
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.models.planted import build_planted
from headscope.readings import read
from headscope.runs import Run, list_runs
from headscope.runs.captures import captured_heads, load_capture, load_head_pattern, load_text
from headscope.tasks.specimens import build_specimens
from probes.probe import Bench, ProbeConfig

Planted = Callable[..., BridgedModel]
SMALL = {"grid_lengths": [96, 128], "grid_depths": [0.2, 0.8], "grid_examples": 2, "ablation_examples": 2}
SMALL |= {"ablation_length": 16}
FEW = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
PLANNED = [
    *("prompt_repeated", "prompt_needle", "prompt_prose"),
    *("weights", "ablation_text", "ablation_repeated", "long", "needle_grid"),
]
MANY_BINS = 700


def headscope(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inspect(out: Path, *arguments: object, model: str = "planted:all") -> Run:
    """Inspect a model with few examples; the run."""
    result = headscope("inspect", model, *FEW, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.removesuffix("\n")))


def numbers(folder: Path) -> dict[str, bytes]:
    """The content of every file of a finished run that holds numbers of heads."""
    paths = [folder / "scores.parquet", *(folder / "tensors").iterdir(), *(folder / "records").iterdir()]
    return {path.name: path.read_bytes() for path in sorted(paths)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    """All stages of the planted model, and what the command printed."""
    out = tmp_path_factory.mktemp("whole")
    result = headscope("inspect", "planted:all", *FEW, "--long", MANY_BINS, "--out", out)
    assert result.exit_code == 0, result.output
    return Run.open(next(out.iterdir())), result


@pytest.fixture
def run(whole: tuple[Run, Result]) -> Run:
    """That run."""
    return whole[0]


def only(head_class: str) -> Head:
    """The one planted head of a class."""
    (head,) = build_planted("all").truth[head_class]
    return head


def test_standard_output_is_the_path_of_a_finished_run_of_all_stages(whole: tuple[Run, Result]) -> None:
    run, result = whole
    assert result.stdout == f"{run.path}\n"
    assert run.is_complete
    assert run.manifest.kind == "inspect"
    assert [stage.name for stage in run.manifest.stages] == PLANNED
    assert run.manifest.config.keys() == InspectConfig.model_fields.keys()
    assert re.fullmatch(r"\d{8}t\d{6}z-inspect-planted-all-[0-9a-f]{8}", run.path.name)


def test_every_record_says_what_each_of_its_arrays_is(run: Run) -> None:
    assert run.records == tuple(stage for stage in PLANNED if not stage.startswith("ablation"))
    for stage in run.records:
        record = run.record(stage)
        assert record["n"] >= 1
        with run._tensors(f"tensors/{stage}.safetensors") as tensors:
            assert set(tensors.keys()) <= record["definitions"].keys()
        assert all(entry["means"] and entry["unit"] for entry in record["definitions"].values())


def test_patterns_rebuilt_from_the_run_are_those_of_the_model(run: Run, planted: Planted) -> None:
    model = planted("all")
    for stage in ("prompt_repeated", "prompt_needle", "prompt_prose"):
        text, found = load_text(run, stage), {}
        assert captured_heads(run, stage) == tuple(Head(layer, head) for layer in range(3) for head in range(8))
        read(
            model,
            torch.tensor([text.ids]),
            lambda layer, reading, found=found: found.__setitem__(layer, reading.pattern[0]),
            method="dense",
        )
        for head in (Head(0, 0), Head(1, 5), Head(2, 7)):
            assert_allclose(load_head_pattern(run, stage, head).rows(), found[head.layer][head.head], atol=1e-5)


def test_planted_induction_head_shows_on_the_repeated_text(run: Run) -> None:
    """From the second copy it looks at the token behind the same one in the first copy."""
    head = only("induction")
    pattern = load_head_pattern(run, "prompt_repeated", head).rows()
    rows = np.arange(14, 25)
    assert (pattern[rows, rows - 11] > 0.99).sum() >= 9  # not those of words that it is not wired for


def test_ablation_scores_are_the_changes_of_whole_forward_passes(run: Run, planted: Planted) -> None:
    from circuits.experiments import repeated_loss

    model = planted("all")
    samples = run.samples("ablation_repeated_loss")
    batch = repeated_loss(Bench(model, ProbeConfig(period=16)), n=2).batches[0]
    losses = []
    for heads in ([], [Head(1, 0)]):
        with ablate(model, heads):
            logits = model.logits(batch.tokens)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.mT, batch.tokens[:, 1:], reduction="none")
        counted = batch.counted[:, :-1]
        losses.append((loss * counted).sum(-1) / counted.sum(-1))
    assert_allclose(samples[:, 1, 0], losses[1] - losses[0], atol=1e-3)
    scores = run.score("ablation_repeated_loss")
    assert_allclose(scores.values, samples.mean(0), atol=1e-6)
    assert (scores.n == 2).all()
    assert list(run.scores()) == ["ablation_text_loss", "ablation_repeated_loss"]


def test_long_text_says_where_attention_goes_and_which_heads_were_kept_and_why(run: Run, planted: Planted) -> None:
    record, model = run.record("long"), planted("all")
    text = load_text(run, "long")
    assert len(text) == MANY_BINS
    assert {entry["head"] for entry in record["chosen"]} == {str(head) for head in captured_heads(run, "long")}
    assert all(entry["why"] for entry in record["chosen"])
    spans = {span["name"]: slice(span["start"], span["end"]) for span in record["spans"]}
    assert model.decode(text.ids[spans["answer"]]).strip() == record["needle"]["answer"]
    assert record["needle"]["answer"] in model.decode(text.ids[spans["needle"]])
    assert "say" in model.decode(text.ids[spans["question"]])
    top = Head.parse(record["chosen"][0]["head"])
    row = load_head_pattern(run, "long", top).rows(MANY_BINS - 1)[0]
    assert_allclose(run.tensor("long", "needle_mass")[top], row[spans["answer"]].sum(), atol=1e-5)
    assert row[spans["answer"]].sum() > 0.9  # the planted retrieval head
    assert top == only("retrieval")


def test_column_mass_of_the_long_text_is_that_of_the_rebuilt_patterns(run: Run) -> None:
    captured, width = load_capture(run, "long"), run.record("long")["tokens_per_bin"]
    assert width == 2
    for head in captured.heads:
        expected = captured.pattern(head).column_mass()
        assert_allclose(run.tensor("long", "column_mass", tuple(head)), expected.reshape(-1, 2).mean(1), atol=1e-5)
        assert_allclose(run.tensor("long", "column_mass_max", tuple(head)), expected.reshape(-1, 2).max(1), atol=1e-5)
        places, mass = (run.tensor("long", name, tuple(head)) for name in ("sink_positions", "sink_mass"))
        assert_allclose(mass, expected[places], atol=1e-5)
        assert_allclose(mass, np.sort(expected[: MANY_BINS - 63])[::-1][:16], atol=1e-5)
        previous = np.diagonal(captured.pattern(head).rows(), -1).mean()
        assert_allclose(run.tensor("long", "previous_mass")[head], previous, atol=1e-5)


def test_needle_grid_finds_the_planted_retrieval_head_in_every_cell(run: Run) -> None:
    record, mass = run.record("needle_grid"), run.tensor("needle_grid", "mass")
    assert (record["lengths"], record["depths"], record["n"]) == ([96, 128], [0.2, 0.8], 2)
    assert run.tensor("needle_grid", "accuracy").shape == (2, 2, 2)
    assert (run.tensor("needle_grid", "accuracy") == 1).all()
    head = only("retrieval")
    assert (mass.reshape(4, -1).argmax(-1) == head.layer * 8 + head.head).all()
    assert (mass[..., head.layer, head.head] > 0.9).all()


def test_needle_grid_is_accuracy_and_mass_of_single_prompts(run: Run, planted: Planted) -> None:
    """One cell, from the dense pattern and the logits of each prompt on its own."""
    from probes.needle_grid import grid_prompts

    model = planted("all")
    task = grid_prompts(Bench(model), 96, 0.8, 2)
    expected = np.zeros((3, 8))
    for index in range(2):
        size, start = int(task.answer_lengths[index]), int(task.spans[index])
        tokens = torch.cat([task.prompts[index], task.answers[index, :size]])[None]

        def take(layer: int, reading: Any, start: int = start, size: int = size) -> None:
            rows = reading.pattern[0, :, 95 : 95 + size, start : start + size]
            expected[layer] += rows.sum(-1).mean(-1).numpy() / 2

        read(model, tokens, take, method="dense")
    assert_allclose(run.tensor("needle_grid", "mass", (0, 1)), expected, atol=1e-5)


def test_weights_name_every_token_they_use(run: Run) -> None:
    record = run.record("weights")
    used = np.unique(run.tensor("weights", "ov_write_tokens"))
    assert {str(token) for token in used} <= record["pieces"].keys()
    assert run.tensor("weights", "qk_key_tokens", (2, 7)).shape == (3, 2, 10)


def interrupt_in(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Ctrl-C at the beginning of a stage."""
    begin = Progress.stage

    def begin_or_stop(self: Progress, name: str, index: int, count: int) -> None:
        begin(self, name, index, count)
        if name == stage:
            raise KeyboardInterrupt

    patch.setattr(Progress, "stage", begin_or_stop)


@pytest.mark.parametrize("stage", ["prompt_needle", "ablation_repeated"])
def test_a_stopped_run_resumes_to_the_same_numbers(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt_in(patch, stage)
        result = headscope("inspect", "planted:all", *FEW, "--long", MANY_BINS, "--out", tmp_path)
    assert result.exit_code == 130
    assert re.search(r"Continue with: headscope inspect --resume \S+", result.stderr)
    (left,) = list_runs(tmp_path)
    assert Run.open(left.path).missing_stages[0] == stage
    again = headscope("inspect", "--resume", left.path)
    assert again.exit_code == 0, again.output
    assert numbers(Path(again.stdout.strip())) == numbers(run.path)


def test_only_the_stages_asked_for_are_run_in_their_own_order(tmp_path: Path) -> None:
    run = inspect(tmp_path, "--stages", "needle_grid,weights")
    assert run.manifest.planned == ("weights", "needle_grid")


def test_prompts_of_ones_own_replace_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("green stone map")
    given = ["--prompt", "the old keeper", "--prompt", "the song", "--file", tmp_path / "text.txt"]
    run = inspect(tmp_path / "runs", "--stages", "prompts", *given)
    assert run.records == ("prompt_given_1", "prompt_given_2", "prompt_given_3")
    assert load_text(run, "prompt_given_1").pieces == ("<bos>", "the", "old", "keeper")
    assert load_capture(run, "prompt_given_3").title == "green stone map"


def test_heads_asked_for_are_those_kept_on_the_long_text(tmp_path: Path) -> None:
    run = inspect(tmp_path, "--stages", "long", "--long", 96, "--heads", "L2H1,0.3")
    assert captured_heads(run, "long") == (Head(2, 1), Head(0, 3))
    assert [entry["why"] for entry in run.record("long")["chosen"]] == ["asked for", "asked for"]


def test_what_a_model_cannot_do_is_said_in_the_record(tmp_path: Path, tiny: Callable[[str], BridgedModel]) -> None:
    model = tiny("deepseek, wide values")
    model.plain.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    run = inspect(
        tmp_path / "runs", "--stages", "prompts,weights", "--prompt", "the old", model=str(tmp_path / "model")
    )
    assert "gives no weights per head" in run.record("weights")["unsupported"]
    assert "unsupported" not in run.record("prompt_given_1")


def test_a_model_of_small_context_out_of_the_seams_reach_gets_what_it_can(
    tmp_path: Path, tiny: Callable[[str], BridgedModel]
) -> None:
    """Its patterns are kept whole; needles do not fit its 64 tokens, and its heads cannot be ablated."""
    model = tiny("gpt_neo, no registry")
    model.plain.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    result = headscope("inspect", tmp_path / "model", *FEW[4:], "--prompt", "the old", "--out", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    run = Run.open(Path(result.stdout.strip()))
    assert run.manifest.planned == ("prompt_given_1", "weights", "ablation_text", "ablation_repeated")
    assert "stage long left out: the needle" in result.stderr
    assert "stage needle_grid left out: the context of" in result.stderr
    assert load_head_pattern(run, "prompt_given_1", Head(1, 2)).matrix is not None
    assert run.tensor("weights", "ov_singular").shape == (2, 4, 8)
    assert "cannot be ablated" in run.record("ablation_text")["unsupported"]
    assert run.scores() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "weight"], r"no stage is called 'weight'\. Did you mean 'weights'\? Known: .*"),
        (["--prompt", "  "], r"the setting 'prompts' cannot be .*: a prompt is empty: give each some text\."),
        (["--file", "/nowhere.txt"], r"the text /nowhere\.txt cannot be read \(No such file or directory\)\."),
        (
            ["--stages", "prompts", "--prompt", "the " * 600],
            r"the prompt 'the the .*' has 601 tokens; .* up to 512\..*",
        ),
        (["--stages", "long", "--long", "5000"], r"a needle prompt of 5000 tokens .* beyond the context .*"),
        (["--long", "5000"], r"a needle prompt of 5000 tokens .* beyond the context .*"),
        (["--stages", "long", "--long", "9"], r"the needle '.*' and its question take .*"),
        (["--heads", "L9H0"], r"there is no head L9H0 in 'planted:all': it has 3 layers x 8 heads, both from 0\."),
        (["--heads", "nine"], r"'nine' is not a head\. .*"),
        (["--set", "ablation=mean"], r"the setting 'ablation' cannot be .* needs a reference batch.*"),
        (["--set", "ablation=remove"], r"no ablation is called 'remove'.*"),
        (["--set", "grid_depths=[1.5]"], r"the setting 'grid_depths' cannot hold 1\.5.*"),
        (["--set", "grid_lengths=[96,96]"], r"the setting 'grid_lengths' cannot be .*: give each once\."),
        (["--set", "grid_length=[96]"], r"there is no setting 'grid_length' .* Did you mean 'grid_lengths'\?"),
        (["--set", "haystack=/nowhere"], r"the haystack /nowhere cannot be read .*"),
        (["--seed", "1", "--resume", "x"], r"give either a MODEL to inspect or --resume RUN\..*"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_no_run(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = headscope("inspect", "planted:all", "--out", tmp_path / "runs", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(f"error: {message}", last), last
    assert list_runs(tmp_path / "runs") == []


def test_a_run_of_another_command_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_in(patch, "weights")
        headscope("inspect", "planted:all", "--stages", "weights", "--out", tmp_path)
    (left,) = list_runs(tmp_path)
    result = headscope("score", "--resume", left.path)
    assert result.exit_code == 2
    assert re.search(r"was not made by `headscope score`\. Continue with: headscope inspect --resume", result.stderr)


def test_built_in_texts_are_short_and_each_has_a_reason(smollm2: BridgedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    found = {text.name: text for text in build_specimens(smollm2, "", generator=generator)}
    assert list(found) == ["repeated", "needle", "ioi", "code", "odd"]
    assert all(16 <= len(text.tokens) <= 64 and text.reason for text in found.values())
    assert found["repeated"].tokens[1:13] == found["repeated"].tokens[13:]
    assert "\u05e9\u05dc\u05d5\u05dd" in smollm2.decode(found["odd"].tokens)


def test_one_short_text_of_the_embedded_model(tmp_path: Path, smollm2: BridgedModel) -> None:
    """Heads of class previous token on another text look back here too."""
    run = inspect(tmp_path, "--stages", "prompts", "--prompt", "A small blue boat left the harbour.", model="smollm2")
    assert run.tensor("prompt_given_1", "matrix").shape[0] == 270  # shorter than a pattern's queries and keys
    text = load_text(run, "prompt_given_1")
    assert "".join(text.pieces[1:]) == "A small blue boat left the harbour."
    tokens, found = torch.tensor([text.ids]), {}
    read(smollm2, tokens, lambda layer, r: found.update({layer: r.pattern[0]}), layers=[0, 17], method="dense")
    for head in (Head(0, 4), Head(17, 8)):
        rows = load_head_pattern(run, "prompt_given_1", head).rows()
        assert_allclose(rows, found[head.layer][head.head].detach(), atol=1e-5)


def test_help_of_stages_names_all_of_them() -> None:
    text = " ".join(headscope("inspect", "--help").stdout.replace("\u2502", " ").split())
    assert all(stage in text for stage in STAGES)
