"""`headscope inspect`: what the pages of heads and patterns are drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, OutOption, ResumeOption
from app.commands.request import settings_of, split, start, went_on


def inspect(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="smollm2, planted:all, a folder, or OWNER/NAME.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A short text of your own; repeat for more (default: built-in texts)."),
    ] = None,
    file: Annotated[str | None, typer.Option(metavar="TEXTFILE", help="A file that holds a short text.")] = None,
    stages: Annotated[
        str, typer.Option(metavar="A,B", help="prompts, weights, ablation, long, needle_grid (default: all).")
    ] = "",
    heads: Annotated[
        str, typer.Option(metavar="A,B", help="Heads to keep on the long text, e.g. L3H11 (default: chosen).")
    ] = "",
    long: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the long text (default: 4096, or what fits).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set grid_examples=8."),
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Capture what every head of MODEL does into a run folder; its path is the last line printed."""
    if went_on(context, "app.inspection:resume_inspection", resume, Path(out)):
        return
    asked: dict[str, Any] = {
        "model": model,
        "prompts": (*(prompt or ()), *(() if file is None else (_text_of(Path(file)),))),
        "stages": split("stages", stages),
        "heads": split("heads", heads),
        "long_length": long,
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    from app.inspect_config import InspectConfig

    config = InspectConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.inspection:run_inspection", config, Path(out)))


def _text_of(path: Path) -> str:
    from headscope.errors import TaskError

    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"the text {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError:
        raise TaskError(f"the text {path} is not UTF-8. Give a plain text file.") from None
    except ValueError as error:
        raise TaskError(f"the text {str(path)!r} is no file name ({error}).") from error
