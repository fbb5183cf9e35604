"""`headscope lab`: one text, heads ablated or a policy put on, one prediction looked at; kept as a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import DEFAULT_ROOT
from app.commands.request import command_line, split

if TYPE_CHECKING:
    from app.live.requests import LabRequest


def lab(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="smollm2, planted:all, a folder, or OWNER/NAME.")],
    text: Annotated[str, typer.Option(metavar="TEXT", help="What the model reads.", show_default=False)],
    heads: Annotated[str, typer.Option(metavar="A,B", help="Heads to ablate, e.g. L3H11,L5H1 (default: none).")] = "",
    ablation: Annotated[
        str, typer.Option(help="zero, mean, resample, uniform, to_bos, or act: calibrate the heads.")
    ] = "zero",
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Read the text under a policy, e.g. streaming, duo (keeps the heads); all: headscope policies --help.",
        ),
    ] = "",
    kept: Annotated[int, typer.Option(min=1, help="Tokens that every head may keep or look at under it.")] = 64,
    position: Annotated[int, typer.Option(help="Position whose next token is predicted; negative: from the end.")] = -1,
    a: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Token A of the logit difference (default: the likeliest).")
    ] = None,
    b: Annotated[str | None, typer.Option(metavar="TOKEN", help="Token B (default: the likeliest other).")] = None,
    random: Annotated[int, typer.Option(min=0, max=20, help="Sets of as many random heads, for comparison.")] = 0,
    captures: Annotated[
        bool, typer.Option("--captures", help="Keep queries and keys of all heads (up to 512 tokens).")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Put the start token first.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder that holds the runs.")] = str(DEFAULT_ROOT),
) -> None:
    """Ablate heads of MODEL on one text, or put it under a policy; the answer is kept as a run, its path printed."""
    from app.live.requests import LabRequest

    request = LabRequest.parse(
        {
            "choice": {"model": model, "device": device, "dtype": dtype},
            "text": text,
            "bos": bos,
            "heads": split("heads", heads),
            "ablation": ablation,
            "policy": policy,
            "kept": kept,
            "position": position,
            "token_a": a,
            "token_b": b,
            "random_sets": random,
            "seed": seed,
            "captures": captures,
        }
    )
    typer.echo(_run(request, Path(out)))


def _run(request: LabRequest, root: Path) -> Path:
    """Answer in this process, the way the model process does, and keep the answer."""
    from headscope.runs.starting import refuse_unwritable

    refuse_unwritable(root)
    from app.lab_run import STAGE, save_lab
    from app.live.results import LabResult
    from app.live.work import Desk
    from app.progress import Progress
    from headscope.errors import ConfigError

    with Progress() as progress:
        progress.stage(STAGE, 1, 1)
        result = Desk(lambda *_: None).answer(request, tell=_teller(progress.step), check=lambda: None)
        if not isinstance(result, LabResult):
            raise ConfigError("the answer is of another kind than the question.")
        for refusal in result.refusals:
            progress.say(f"{refusal.part}: {refusal.reason}")
        return save_lab(request, result, root=root, command=command_line(), opened=progress.opened)


def _teller(step: Callable[[int, int], None]) -> Callable[[str, int, int], None]:
    """Only what is counted becomes a step of the bar."""

    def tell(_: str, done: int, total: int) -> None:
        if total > 1:
            step(done, total)

    return tell
