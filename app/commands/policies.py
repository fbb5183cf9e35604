"""`headscope policies`: run a model under KV-cache policies, and see bytes against accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import DEFAULT_ROOT, DeviceOption, DtypeOption, OutOption, ResumeOption
from app.commands.request import named_options, numbers, settings_of, split, start, went_on

_POLICIES = (
    "streaming, lm-infinite, duo, razor, moa, h2o, tova, d2o, snapkv, attention-gate, recycled; keeping all keys: "
    "top-keys, quest, lserve, longheads, hip, hyper; other softmaxes: temperature, length-scale, sigmoid, "
    "off-by-one, sink-removal, act"
)  # written down, as the catalogue loads in a tenth of a second; a test compares them


def policies(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="smollm2, planted:all, a folder, or OWNER/NAME.", show_default=False),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policies",
            metavar="A,B|all",
            help=f"Policies, beside the full cache: {_POLICIES} (default: streaming,duo,razor,snapkv,h2o).",
        ),
    ] = "",
    tasks: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Questions: needle, multi-needle, variable-tracking, repeated; or the loss on text, code, opinions "
            "(default: needle,text).",
        ),
    ] = "",
    lengths: Annotated[str, typer.Option(metavar="A,B", help="Prompt lengths in tokens (default: 512).")] = "",
    examples: Annotated[int, typer.Option(min=2, help="Prompts per task and length.")] = 8,
    budgets: Annotated[
        str, typer.Option(metavar="A,B", help="Shares of the text that heads may keep (default: 0.125,0.25,0.5).")
    ] = "",
    shares: Annotated[
        str, typer.Option(metavar="A,B", help="Shares of heads with a full cache (default: 0.1,0.25,0.5).")
    ] = "",
    rules: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="How those are chosen: duo-gate, razor, retrieval, induction (default: duo-gate,retrieval).",
        ),
    ] = "",
    draws: Annotated[int, typer.Option(min=0, help="Random choices of as many heads.")] = 3,
    gate_steps: Annotated[int, typer.Option(min=1, help="Training steps of DuoAttention's gates.")] = 100,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="POLICY.KEY=VALUE", help="A setting of a policy, e.g. duo.sink=16."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. --set window=0.1.")
    ] = None,
    out: OutOption = str(DEFAULT_ROOT),
    resume: ResumeOption = None,
) -> None:
    """Run MODEL under cache policies into a run folder; its path is the last line printed."""
    if went_on(context, "app.policies_run:resume_policies", resume, Path(out)):
        return
    asked: dict[str, Any] = {
        "model": model,
        "examples": examples,
        "random_draws": draws,
        "gate_steps": gate_steps,
        "options": named_options(option or [], "POLICY.KEY=VALUE, such as duo.sink=16"),
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    asked |= {name: split(name, text) for name, text in (("tasks", tasks), ("rules", rules)) if text}
    asked |= {name: numbers(name, text, float) for name, text in (("budgets", budgets), ("shares", shares)) if text}
    if lengths:
        asked["lengths"] = numbers("lengths", lengths, int)
    if policy:
        asked["policies"] = _named_policies(policy)
    from app.policies_config import PoliciesConfig

    config = PoliciesConfig.parse(asked | settings_of(settings or []))
    typer.echo(start("app.policies_run:run_policies", config, Path(out)))


def _named_policies(text: str) -> tuple[str, ...]:
    from circuits.policies.catalog import POLICIES
    from headscope.errors import ConfigError

    names = split("policies", text)
    if "all" in names and len(names) > 1:
        raise ConfigError(f"--policies cannot be {text!r}: 'all' stands alone, or name the policies without it.")
    return tuple(POLICIES) if names == ("all",) else names
