"""`headscope score`: score every head of a model, and test the scores by ablation."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT

Names = typer.Option(metavar="A,B,...", show_default=False)


def score(
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
        Path | None,
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
    out: Annotated[Path, typer.Option("--out", help="Folder that holds the runs.")] = DEFAULT_ROOT,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an unfinished run.", show_default=False)
    ] = None,
) -> None:
    """Score every head of MODEL into a run folder; its path is the last line printed."""
    from app.progress import Progress
    from app.scoring import ScoreConfig, resume_scores, run_scores
    from headscope.errors import ConfigError
    from headscope.runs.index import find_run

    if (model is None) == (resume is None):
        raise ConfigError("give either a MODEL to score or --resume RUN. See what can be loaded: headscope models")
    with Progress() as progress:
        if resume is not None:
            path = resume_scores(find_run(out, resume), listener=progress)
        else:
            own = {
                "model": model,
                "probes": _split(probes),
                "lengths": _numbers("lengths", lengths, int),
                "haystack": haystack,
                "checks": None if checks == "all" else () if checks == "none" else _split(checks),
                "draws": draws,
                "seed": seed,
                "device": device,
                "dtype": dtype,
                **_needles(needles),
            }
            if depths:
                own["depths"] = _numbers("depths", depths, float)
            command = shlex.join(["headscope", *sys.argv[1:]])
            config = ScoreConfig.parse(own | _settings(settings or []))
            path = run_scores(config, root=out, command=command, listener=progress)
    typer.echo(path)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    from headscope.errors import ConfigError

    try:
        return tuple(kind(part) for part in _split(text))
    except ValueError:
        raise ConfigError(f"--{option} cannot be {text!r}: give numbers with commas, such as 256,512.") from None


def _needles(text: str) -> dict[str, Any]:
    if text.endswith(".json"):
        return {"needle_file": Path(text)}
    return {"needles": _split(text)}


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
