"""`headscope score`: score every head of a model, and test the scores by ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, OutOption, ResumeOption
from app.commands.request import numbers, settings_of, split, start, went_on


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
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set needle_examples=32."),
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Score every head of MODEL into a run folder; its path is the last line printed."""
    if went_on(context, "app.scoring:resume_scores", resume, Path(out)):
        return
    asked = {
        "model": model,
        "probes": split("probes", probes),
        "lengths": numbers("lengths", lengths, int),
        "haystack": haystack,
        "checks": None if checks == "all" else () if checks == "none" else split("checks", checks),
        "draws": draws,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        **_needles(needles),
    }
    if depths:
        asked["depths"] = numbers("depths", depths, float)
    from app.score_config import ScoreConfig

    config = ScoreConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.scoring:run_scores", config, Path(out)))


def _needles(text: str) -> dict[str, Any]:
    if text.endswith(".json"):
        return {"needle_file": Path(text)}
    return {"needles": split("needles", text)}
