"""The commands that a form can start as a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from app.bench_config import BenchConfig
from app.calibrate_config import CalibrateConfig
from app.circuit_config import CircuitConfig
from app.forms.argv import argv_of
from app.forms.variant_forms import CompareForm, TrainForm, compare_argv, train_argv
from app.inspect_config import InspectConfig
from app.lab_run import LabSettings, lab_words
from app.policies_config import PoliciesConfig
from app.score_config import ScoreConfig
from headscope.config import Config
from headscope.errors import UnknownNameError
from headscope.runs.manifest import SafeName


class ReportConfig(Config):
    """A run as one HTML file.

    Attributes:
        run: id of the run.
        out: file to write; report.html in the run folder if empty.
    """

    run: SafeName
    out: Path | None = None


class ExportConfig(Config):
    """The rows of a run for other programs.

    Attributes:
        run: id of the run.
        out: file to write.
        format: csv, json or parquet.
    """

    run: SafeName
    out: Path
    format: Literal["csv", "json", "parquet"] = Field(default="csv")


def _argv_about_run(command: str, config: Config) -> list[str]:
    """``[command, run, "--format=json", "--out=FILE"]``."""
    options = {name: getattr(config, name) for name in ("format", "out") if name in type(config).model_fields}
    defaults = {"format": "csv", "out": None}
    words = [f"--{name}={value}" for name, value in options.items() if value != defaults[name]]
    return [command, str(getattr(config, "run")), *words]  # noqa: B009 - both configs have one


def _argv_of_lab(_: str, config: LabSettings) -> list[str]:
    return lab_words(config.request)


@dataclass(frozen=True)
class CommandForm:
    """A command that a form can start.

    Attributes:
        name: of the command.
        title: for people.
        summary: one line for people.
        config: its settings.
        argv: from the name and the settings to the words after ``headscope``.
        root_option: what the command calls the folder of runs.
        makes_run: whether it makes a run.
        can_resume: whether that run, when it was stopped, can be gone on with.
    """

    name: str
    title: str
    summary: str
    config: type[Config]
    argv: Callable[[str, Any], list[str]] = argv_of
    root_option: str = "--out"
    makes_run: bool = True
    can_resume: bool = True

    def words(self, config: Config, root: Path) -> list[str]:
        """The command line for the runs in ``root``."""
        argv = self.argv(self.name, config)
        end = argv.index("--") if "--" in argv else len(argv)
        return [*argv[:end], self.root_option, str(root), *argv[end:]]


COMMANDS: tuple[CommandForm, ...] = (
    CommandForm("score", "Score heads", "Score every head of a model, and test the scores by ablation.", ScoreConfig),
    CommandForm("inspect", "Inspect heads", "Capture what every head of a model does.", InspectConfig),
    CommandForm("circuit", "Find a circuit", "Find the heads that compute a task's answer.", CircuitConfig),
    CommandForm(
        "circuit-bench", "Compare circuit methods", "Put circuit methods on one scoreboard, over seeds.", BenchConfig
    ),
    CommandForm(
        "calibrate",
        "Calibrate attention",
        "Weaken attention sinks in chosen heads, and see whether it helps.",
        CalibrateConfig,
    ),
    CommandForm(
        "policies",
        "Compare cache policies",
        "Run a model under cache policies: bytes kept against accuracy.",
        PoliciesConfig,
    ),
    CommandForm(
        "train",
        "Train variants",
        "Train attention variants on a task that separates them.",
        TrainForm,
        train_argv,
    ),
    CommandForm(
        "compare",
        "Compare variants",
        "Put trained variants side by side: their heads, and what cutting them does.",
        CompareForm,
        compare_argv,
    ),
    CommandForm(
        "lab",
        "Prompt lab",
        "Ablate or calibrate heads on one text, or put it under a policy, and keep the answer as a run.",
        LabSettings,
        _argv_of_lab,
        can_resume=False,
    ),
    CommandForm(
        "report", "Report", "Write a run as one HTML file.", ReportConfig, _argv_about_run, "--root", False, False
    ),
    CommandForm("export", "Export", "Write the rows of a run.", ExportConfig, _argv_about_run, "--root", False, False),
)
NO_FORM = "show, runs, models and variants only print, and serve is this dashboard: they are for a terminal."
"""Why the other commands have no form."""


def find_command(name: str) -> CommandForm:
    """The command of that name.

    Raises:
        UnknownNameError: if no form starts it.
    """
    for form in COMMANDS:
        if form.name == name:
            return form
    raise UnknownNameError.of("command", name[:60], [form.name for form in COMMANDS])
