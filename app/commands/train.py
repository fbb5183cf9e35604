"""`headscope train`: attention variants, trained on a task that separates them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, OutOption, ResumeOption
from app.commands.request import named_options, numbers, settings_of, split, start, went_on

_FORM = "task.KEY=VALUE or decoder.KEY=VALUE, such as task.pairs=4 or decoder.conv=4"


def train(
    context: typer.Context,
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="mqar, bigram-backcopy, copying, induction, ...", show_default=False),
    ] = None,
    variants: Annotated[str, typer.Option(metavar="A,B", help="Variants; see headscope variants.")] = "softmax",
    rates: Annotated[str, typer.Option(metavar="A,B", help="Learning rates; the best is reported.")] = "0.003",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant and rate.")] = 3,
    widths: Annotated[str, typer.Option(metavar="A,B", help="Widths of the stream.")] = "64",
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Heads in each.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a training.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 64,
    pictures: Annotated[int, typer.Option(min=0, help="Mixing matrices to keep from each training.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="task|decoder.KEY=VALUE", help="A setting of the task or the decoder."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    device: DeviceOption = "auto",
    workers: Annotated[
        int, typer.Option(min=1, help="Trainings at once, each in a process of its own (on a GPU up to 8 in one).")
    ] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set stop_at=0.999."),
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Train attention variants on TASK, in a run folder; its path is the last line printed."""
    if went_on(context, "app.train_run:resume_train", resume, Path(out)):
        return
    from headscope.errors import ConfigError
    from headscope.training.sweep import SweepConfig

    options = named_options(option or [], _FORM)
    if strange := sorted(set(options) - {"task", "decoder"}):
        raise ConfigError(f"--option cannot be {strange[0]!r}: give {_FORM}.")
    asked: dict[str, Any] = {
        "task": task,
        "task_settings": options.get("task", {}),
        "decoder": options.get("decoder", {}),
        "variants": split("variants", variants),
        "rates": numbers("rates", rates, float),
        "widths": numbers("widths", widths, int),
        "seeds": seeds,
        "layers": layers,
        "heads": heads,
        "steps": steps,
        "batch": batch,
        "pictures": pictures,
        "seed": seed,
        "device": device,
        "workers": workers,
    }
    config = SweepConfig.parse(asked | settings_of(settings or []))
    if config.steps <= config.warmup:
        typer.echo(
            f"note: the learning rate rises over {config.warmup} steps, so with {config.steps} it never comes to the "
            "one asked for: take more --steps, or --set warmup=0.",
            err=True,
        )
    typer.echo(start("app.train_run:run_train", config, Path(out)))
