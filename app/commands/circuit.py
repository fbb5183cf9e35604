"""`headscope circuit`: which heads compute a task's answer, by one method or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, MethodSettings, OutOption, ResumeOption
from app.commands.request import named_options, settings_of, split, start, went_on


def circuit(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="smollm2, planted:ioi, a folder, or OWNER/NAME.", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option(metavar="TASK", help="ioi, greater-than, docstring, induction ...")] = "ioi",
    method: Annotated[
        str,
        typer.Option(metavar="A,B|all", help="Methods (default: patching,eap-ig-inputs,discrete-sae-null)."),
    ] = "",
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of prompts that methods see.")] = 32,
    judged: Annotated[int, typer.Option(min=2, help="Other pairs, on which circuits are judged.")] = 32,
    option: MethodSettings = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set code_pairs=100."),
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Find the circuit of a task in MODEL into a run folder; its path is the last line printed."""
    if went_on(context, "app.circuit_run:resume_circuit", resume, Path(out)):
        return
    asked: dict[str, Any] = {
        "model": model,
        "task": task,
        "pairs": pairs,
        "judged": judged,
        "options": method_options(option or []),
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    if method:
        asked["methods"] = named_methods(method)
    from app.circuit_config import CircuitConfig

    config = CircuitConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.circuit_run:run_circuit", config, Path(out)))


def named_methods(text: str) -> tuple[str, ...]:
    """Method names with commas between them, or all."""
    from circuits.methods import METHODS

    return tuple(METHODS) if text == "all" else split("method", text)


def method_options(given: list[str]) -> dict[str, dict[str, Any]]:
    """``METHOD.KEY=VALUE`` pairs by method."""
    return named_options(given, "METHOD.KEY=VALUE, such as eap-ig-inputs.steps=10")
