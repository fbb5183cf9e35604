"""The forms of `headscope train` and `headscope compare`, with one field for settings of task and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from app.commands.request import named_options
from app.compare_config import CompareConfig
from app.forms.argv import argv_of
from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.registry import variants
from headscope.tasks.synthetic_catalog import synthetic_tasks
from headscope.training.sweep import SweepConfig

_BUILT = tuple(name for name, one in variants().items() if one.status == "built")
_TASKS = tuple(synthetic_tasks())
_LINES = "task.KEY=VALUE or decoder.KEY=VALUE, such as task.pairs=4 or decoder.conv=4"


class TrainForm(SweepConfig):
    """Train attention variants on a task.

    Attributes:
        task: what is learned.
        variants: names of the registry; the page Variants lists them.
        rates: learning rates that are tried; the best is reported.
        widths: widths of the stream, d_model.
        seeds: trainings of each variant, width and rate.
        layers: number of blocks.
        heads: heads in each block.
        steps: most steps of one training.
        pictures: mixing matrices that are kept from each training, spread over its steps; 0 keeps none.
        options: settings of the task or the decoder, ``task.pairs=4`` or ``decoder.conv=4``.
    """

    task: str = Field(default="mqar", json_schema_extra={"enum": list(_TASKS)})
    variants: tuple[str, ...] = Field(
        default=("softmax",), min_length=1, json_schema_extra={"items": {"type": "string", "enum": list(_BUILT)}}
    )
    options: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _readable(self) -> TrainForm:
        strange = sorted(set(named_options(list(self.options), _LINES)) - {"task", "decoder"})
        if strange:
            raise ConfigError(f"the setting 'options' cannot be about {strange[0]!r}: give {_LINES}.")
        return self


class CompareForm(CompareConfig):
    """Compare trained variants.

    Attributes:
        models: variants, or single checkpoints as ``checkpoint:<name>``.
        run: train run that the models are taken from; the shipped checkpoints if it is left empty.
        task: which of the shipped checkpoints of a variant; a train run has one task.
        seed: seed of the examples and cuts.
    """

    models: tuple[str, ...] = Field(default=("softmax", "linear"), min_length=1)
    task: str = Field(default="mqar", json_schema_extra={"enum": list(_TASKS)})


def train_argv(command: str, config: TrainForm) -> list[str]:
    """``[train, mqar, --variants, a,b, --option, task.pairs=4]``."""
    rest = argv_of(command, config, subjects=("task",), leave_out=("options",))
    return [*rest, *(word for line in config.options for word in ("--option", line))]


def compare_argv(command: str, config: CompareForm) -> list[str]:
    """``[compare, softmax, linear, --run, ID]``."""
    return argv_of(command, config, subjects=("models",))


def title_of(config: Config) -> str:
    """What a job of such a form is called after its command."""
    given: Mapping[str, Any] = config.model_dump()
    return ", ".join(given.get("models") or given.get("variants") or ())
