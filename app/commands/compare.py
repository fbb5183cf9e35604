"""`headscope compare`: trained variants side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, OutOption, ResumeOption
from app.commands.request import numbers, settings_of, start, went_on


def compare(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Variants, or checkpoint:<name>.", show_default=False),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="Take the models from this train run.", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option(help="Which shipped checkpoints of a variant.")] = "mqar",
    seeds: Annotated[int, typer.Option(min=1, help="At most so many trainings of each variant.")] = 3,
    examples: Annotated[int, typer.Option(min=2, help="Fresh examples.")] = 128,
    draws: Annotated[int, typer.Option(min=1, help="Cuts of other cells beside each claim, of each control.")] = 40,
    lengths: Annotated[str, typer.Option(metavar="A,B", help="Other lengths of the text to score on.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the examples and cuts.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Compare trained variants: their heads, what cutting them does, accuracy, state; prints the run's folder."""
    if went_on(context, "app.compare_run:resume_compare", resume, Path(out)):
        return
    from app.compare_config import CompareConfig

    asked: dict[str, Any] = {
        "models": tuple(models or ()),
        "run": run,
        "task": task,
        "seeds": seeds,
        "examples": examples,
        "draws": draws,
        "lengths": numbers("lengths", lengths, int) if lengths else (),
        "seed": seed,
    }
    config = CompareConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.compare_run:run_compare", config, Path(out)))
