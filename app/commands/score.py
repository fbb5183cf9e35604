"""`headscope score`: score every head of a model, and test the scores by ablation."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT


def score(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="smollm2, planted:all, a folder, or OWNER/NAME.", show_default=False),
    ] = None,
    probes: Annotated[str, typer.Option(metavar="A,B", help="Probes or scores (default: all).")] = "",
    lengths: Annotated[
        str, typer.Option(metavar="N,N", help="Needle prompt lengths in tokens (default: 256,512,1024).")
    ] = "",
    depths: Annotated[
        str,
        typer.Option(metavar="X,X", help="Where the needle lies, from 0 to 1 (default: 0.1,0.3,0.5,0.7,0.9)."),
    ] = "",
    needles: Annotated[
        str, typer.Option(metavar="A,B", help="Built-in needles by name, or a JSON file of your own.")
    ] = "",
    haystack: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Text to hide needles in (default: Python's reference)."),
    ] = None,
    checks: Annotated[str, typer.Option(metavar="A,B|all|none", help="Head classes to test by ablation.")] = "all",
    draws: Annotated[int, typer.Option(min=1, help="Random head sets per test.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set needle_examples=32."),
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder that holds the runs.")] = str(DEFAULT_ROOT),
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an unfinished run.", show_default=False)
    ] = None,
) -> None:
    """Score every head of MODEL into a run folder; its path is the last line printed."""
    _check_options(context)
    if resume is not None:
        typer.echo(_go_on(resume, Path(out)))
        return
    asked = {
        "model": model,
        "probes": _split("probes", probes),
        "lengths": _numbers("lengths", lengths, int),
        "haystack": haystack,
        "checks": None if checks == "all" else () if checks == "none" else _split("checks", checks),
        "draws": draws,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        **_needles(needles),
    }
    if depths:
        asked["depths"] = _numbers("depths", depths, float)
    typer.echo(_start(asked | _settings(settings or []), Path(out)))


def _start(asked: dict[str, Any], root: Path) -> Path:
    from app.progress import Progress
    from app.scoring import ScoreConfig, run_scores

    with Progress() as progress:
        return run_scores(ScoreConfig.parse(asked), root=root, command=_command_line(), listener=progress)


def _go_on(given: str, root: Path) -> Path:
    from headscope.runs.index import find_run

    folder = find_run(root, given)  # before the imports that take seconds
    from app.progress import Progress
    from app.scoring import resume_scores

    with Progress() as progress:
        return resume_scores(folder, listener=progress)


def _check_options(context: typer.Context) -> None:
    """Refuse empty values, which a shell makes of unset variables, and options that a resumed run cannot obey."""
    from headscope.errors import ConfigError

    given: dict[str, Any] = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0] if parameter.opts[0].startswith("-") else "MODEL"
            given[option] = context.params[str(parameter.name)]
    empty = [option for option, value in given.items() if value == ""]
    if empty:
        raise ConfigError(f"{empty[0]} is empty. Give it a value, or leave it out.")
    if ("MODEL" in given) == ("--resume" in given):
        raise ConfigError("give either a MODEL to score or --resume RUN. See what can be loaded: headscope models")
    idle = [option for option in given if option not in ("--resume", "--out")]
    if "--resume" in given and idle:
        raise ConfigError(f"--resume goes on with the settings that the run was started with: leave out {idle[0]}.")


def _command_line() -> str:
    from headscope.errors import ConfigError

    command = shlex.join(["headscope", *sys.argv[1:]])
    try:
        command.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the command line is not UTF-8 text, so a manifest cannot hold it. Rename the file."
        ) from None
    return command


def _split(option: str, text: str) -> tuple[str, ...]:
    from headscope.errors import ConfigError

    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if text and not parts:
        raise ConfigError(f"--{option} cannot be {text!r}: give names with commas between them.")
    return parts


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    from headscope.errors import ConfigError

    try:
        return tuple(kind(part) for part in _split(option, text))
    except ValueError:
        example = "256,512" if kind is int else "0.25,0.75"
        raise ConfigError(f"--{option} cannot be {text!r}: give numbers with commas, such as {example}.") from None


def _needles(text: str) -> dict[str, Any]:
    if text.endswith(".json"):
        return {"needle_file": Path(text)}
    return {"needles": _split("needles", text)}


def _settings(given: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; the value is JSON where it can be read as such, else text."""
    from headscope.errors import ConfigError

    found: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set cannot be {pair!r}: give KEY=VALUE, such as needle_examples=32.")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found
