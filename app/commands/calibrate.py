"""`headscope calibrate`: weaken attention sinks in chosen heads, and see whether it helps on data not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, OutOption, ResumeOption
from app.commands.request import settings_of, split, start, went_on


def calibrate(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="smollm2, a folder, or OWNER/NAME.", show_default=False)
    ] = None,
    sets: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Data sets: sentiment, topic, subjectivity, question-type, entailment, commonsense (default: all "
            "six), or a task of lm-eval, such as lm-eval:rte.",
        ),
    ] = "",
    shots: Annotated[int, typer.Option(min=0, help="Worked examples in every prompt.")] = 4,
    select: Annotated[int, typer.Option(min=4, help="Items on which heads are chosen.")] = 48,
    test: Annotated[int, typer.Option(min=4, help="Other items, on which the choice is judged.")] = 96,
    method: Annotated[
        Literal["per-head", "greedy", "first-order"], typer.Option(help="How heads are chosen.")
    ] = "first-order",
    top: Annotated[int, typer.Option(min=1, help="At most so many heads.")] = 16,
    beta: Annotated[
        float, typer.Option(help="What weights on sinks are multiplied by: below 1 weakens them, above 1 feeds them.")
    ] = 0.4,
    draws: Annotated[
        int, typer.Option(min=0, help="Random choices of as many heads; with 0 nothing says whether any would do.")
    ] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Trials per data set, each with its own split.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set texts=16.")
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Calibrate attention sinks of MODEL (ACT) into a run folder; its path is the last line printed."""
    if went_on(context, "app.calibrate_run:resume_calibration", resume, Path(out)):
        return
    asked: dict[str, Any] = {
        "model": model,
        "sets": split("sets", sets),
        "shots": shots,
        "select": select,
        "test": test,
        "selection": {"method": method.replace("per-head", "per head"), "top": top},
        "act": {"beta": beta},
        "random_draws": draws,
        "seeds": seeds,
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    from app.calibrate_config import CalibrateConfig

    given = settings_of(settings or [])
    for name in ("act", "selection"):  # what --set says of a part leaves the rest of it to its own options
        if isinstance(given.get(name), dict):
            given[name] = {**asked[name], **given[name]}
    config = CalibrateConfig.parse(asked | given)
    typer.echo(start("app.calibrate_run:run_calibration", config, Path(out)))
