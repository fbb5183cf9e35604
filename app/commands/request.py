"""Reading the options of the commands that make a run."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import typer


def _check_options(context: typer.Context) -> None:
    """Refuse empty values, which a shell makes of unset variables, and options that a resumed run cannot obey."""
    from headscope.errors import ConfigError

    given: dict[str, Any] = {}
    asked = next(str(p.metavar) for p in context.command.params if p.param_type_name == "argument")
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0] if parameter.opts[0].startswith("-") else asked
            given[option] = context.params[str(parameter.name)]
    empty = [option for option, value in given.items() if value == ""]
    if empty:
        raise ConfigError(f"{empty[0]} is empty. Give it a value, or leave it out.")
    if (asked in given) == ("--resume" in given):
        known = "headscope models" if asked == "MODEL" else f"headscope {context.command.name} --help"
        raise ConfigError(
            f"give either a {asked} to {context.command.name} or --resume RUN. See what there is: {known}"
        )
    idle = [option for option in given if option not in ("--resume", "--out")]
    if "--resume" in given and idle:
        raise ConfigError(f"--resume goes on with the settings that the run was started with: leave out {idle[0]}.")


def command_line() -> str:
    """The command line as a manifest holds it."""
    from headscope.errors import ConfigError

    command = shlex.join(["headscope", *sys.argv[1:]])
    try:
        command.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the command line is not UTF-8 text, so a manifest cannot hold it. Rename the file."
        ) from None
    return command


def split(option: str, text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    from headscope.errors import ConfigError

    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if text and not parts:
        raise ConfigError(f"--{option} cannot be {text!r}: give names with commas between them.")
    return parts


def numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    """Numbers with commas between them."""
    from headscope.errors import ConfigError

    try:
        return tuple(kind(part) for part in split(option, text))
    except ValueError:
        example = "256,512" if kind is int else "0.25,0.75"
        raise ConfigError(f"--{option} cannot be {text!r}: give numbers with commas, such as {example}.") from None


def settings_of(given: list[str]) -> dict[str, Any]:
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


def named_options(given: list[str], form: str) -> dict[str, dict[str, Any]]:
    """``NAME.KEY=VALUE`` pairs by name; ``form`` says to people what they look like."""
    from headscope.errors import ConfigError

    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, dot, rest = text.partition(".")
        if not dot or "=" not in rest:
            raise ConfigError(f"--option cannot be {text!r}: give {form}.")
        found.setdefault(name.strip(), {}).update(settings_of([rest]))
    return found


def went_on(context: typer.Context, place: str, resume: str | None, root: Path) -> bool:
    """Whether ``--resume`` names a run: it is then gone on with, and its path printed. The options are checked first.

    Args:
        context: of the command.
        place: ``module:function`` that goes on with a run.
        resume: the run that ``--resume`` names.
        root: folder that holds the runs.
    """
    _check_options(context)
    if resume is not None:
        typer.echo(_go_on(place, resume, root))
    return resume is not None


def start(place: str, config: Any, root: Path) -> Path:
    """Run ``module:function`` on a config, with a progress bar; returns the run's folder.

    The module is imported here, after the config was checked: it takes seconds.
    """
    from app.progress import Progress

    with Progress() as progress:
        return _found(place)(config, root=root, command=command_line(), listener=progress)


def _go_on(place: str, given: str, root: Path) -> Path:
    """Run ``module:function`` on the unfinished run that was named; returns its folder."""
    from headscope.runs.index import find_run

    folder = find_run(root, given)  # before the imports that take seconds
    from app.progress import Progress

    with Progress() as progress:
        return _found(place)(folder, listener=progress)


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
