"""`headscope circuit-bench`: all circuit methods on one model, over seeds, against every truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.circuit import method_options, named_methods
from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, MethodSettings, OutOption, ResumeOption
from app.commands.request import numbers, settings_of, split, start, went_on


def circuit_bench(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="smollm2, planted:ioi, trained:ioi, a folder, or OWNER/NAME.", show_default=False
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="A,B|all", help="Tasks; those that MODEL cannot do are left out.")
    ] = "ioi",
    method: Annotated[
        str, typer.Option(metavar="A,B|all", help="Methods (default: all but path-patching, which runs per edge).")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds, each with its own prompts; intervals take 5.")] = 5,
    examples: Annotated[
        str, typer.Option(metavar="N,N", help="Numbers of pairs that methods see, e.g. 5,10,50,250.")
    ] = "20",
    option: MethodSettings = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set edge_truth=true."),
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Put circuit methods on one scoreboard for MODEL, in a run folder; its path is the last line printed."""
    if went_on(context, "app.bench_run:resume_bench", resume, Path(out)):
        return
    asked: dict[str, Any] = {
        "model": model,
        "tasks": _tasks(tasks),
        "methods": named_methods(method) if method else (),
        "seeds": seeds,
        "examples": numbers("examples", examples, int),
        "options": method_options(option or []),
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    from app.bench_config import BenchConfig

    config = BenchConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.bench_run:run_bench", config, Path(out)))


def _tasks(text: str) -> tuple[str, ...]:
    from headscope.tasks.contrast_catalog import CONTRAST_TASKS

    return tuple(CONTRAST_TASKS) if text == "all" else split("tasks", text)
