"""The form of each command: fields from its settings, and what was filled in as a command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from app.forms import COMMANDS, CommandForm, FormField, fields_of, find_command, parse_form
from app.forms.fields import ALL, NONE
from app.forms.variant_forms import title_of
from headscope.errors import ConfigError, HeadscopeError
from headscope.runs.manifest import MANIFEST

FIELD = "jobs-field"
_REPORT = "report.html"
_WAIT_MS = 300


@dataclass(frozen=True)
class Filled:
    """A form as it is filled in.

    Attributes:
        words: the command line after ``headscope``; empty if something is wrong.
        title: the job's title.
        problem: sentences that say what is wrong; empty if nothing is.
        wrong: what is wrong with each wrong field, by its name.
    """

    words: tuple[str, ...] = ()
    title: str = ""
    problem: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def line(self) -> str:
        """The command as one would type it; empty if something is wrong."""
        return shlex.join(["headscope", *self.words]) if self.words else ""


def read_form(command: str, values: Mapping[str, Any], root: Path) -> Filled:
    """What a form would start, or what is wrong with it.

    Args:
        command: name of the command.
        values: by name of the field.
        root: folder of the runs.
    """
    try:
        form = find_command(command)
        config = parse_form(form.config, values)
        _check_file(getattr(config, "out", None), root)
        words = tuple(form.words(config, root))
    except HeadscopeError as error:
        return Filled(problem=_sentence(str(error)), wrong=_wrong_fields(command, values, str(error)))
    subject = getattr(config, "model", None) or title_of(config) or getattr(config, "run", "")
    return Filled(words, f"{form.name} {subject}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrong_fields(command: str, values: Mapping[str, Any], said: str) -> dict[str, str]:
    """Which sentence is about which field; an error that names no field is about the one without which it goes."""
    found = dict[str, str]()
    for part in re.split(r"(?=\bthe setting ')", said):
        name = re.match(r"the setting '(\w+)[.']", part)
        if name and name[1] in values:
            found[name[1]] = " ".join(text for text in (found.get(name[1], ""), _sentence(part.strip())) if text)
    if found or command not in {form.name for form in COMMANDS}:
        return found
    for name in values:
        try:
            parse_form(find_command(command).config, {**values, name: None})
        except HeadscopeError:
            continue
        return {name: _sentence(said)}
    return {}


def _check_file(out: Path | None, root: Path) -> None:
    """A browser may have files written into the folder of runs only, and none that a run or the server keeps there.

    Raises:
        ConfigError: if the file lies elsewhere.
    """
    if out is None:
        return
    base = root.resolve()
    try:
        inner = out.absolute().resolve().relative_to(base).parts
    except (ValueError, OSError, RuntimeError):
        inner = ()
    if not inner or any(part.startswith(".") for part in inner):
        raise ConfigError(
            f"the setting 'out' cannot be {str(out)[:80]!r}: from the browser files are written into the folder of the "
            f"runs only, such as {root / 'scores.csv'}."
        )
    taken = base.joinpath(*inner)
    if taken.is_dir() or (taken.exists() and (base / inner[0] / MANIFEST).exists() and taken.name != _REPORT):
        raise ConfigError(f"the setting 'out' cannot be {str(out)[:80]!r}: that is part of a run. Give another name.")


def field_id(command: str, name: str) -> dict[str, str]:
    """Id of the control of a field."""
    return {"type": FIELD, "command": command, "name": name}


def values_given(given: Iterable[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """The values of one command's fields among those of all forms, as Dash hands them over."""
    return {one["id"]["name"]: one.get("value") for one in given if one["id"]["command"] == command}


def all_forms(chosen: str, prefilled: Mapping[str, str], runs: list[dict[str, str]]) -> list[Component]:
    """The forms of all commands, all but the chosen one hidden, so that nothing is lost on the way between them.

    Args:
        chosen: name of the command that is shown.
        prefilled: values of required fields, by name.
        runs: options of fields that name a run.
    """
    return [
        html.Div(_form(form, prefilled, runs), id=f"jobs-form-{form.name}", hidden=form.name != chosen)
        for form in COMMANDS
    ]


def _form(form: CommandForm, prefilled: Mapping[str, str], runs: list[dict[str, str]]) -> list[Component]:
    fields = fields_of(form.config)
    basic = [_place(form.name, each, prefilled, runs) for each in fields if each.group == "basic"]
    rest = [_place(form.name, each, prefilled, runs) for each in fields if each.group != "basic"]
    made: list[Component] = [
        html.P(form.summary, className="hs-soft"),
        html.Div(basic, className="hs-fields"),
    ]
    if rest:
        folded = [
            html.Summary(f"{len(rest)} more {'setting' if len(rest) == 1 else 'settings'}"),
            html.Div(rest, className="hs-fields"),
        ]
        made.append(html.Details(folded, className="hs-more"))
    return made


def _place(command: str, each: FormField, prefilled: Mapping[str, str], runs: list[dict[str, str]]) -> html.Div:
    is_wide = each.name in ("run", "out", "text") or (each.kind in ("choices", "list") and each.item == "text")
    control = _control(command, each, prefilled, runs)
    return html.Div(control, className="hs-wide-field" if is_wide else None)


def _control(command: str, each: FormField, prefilled: Mapping[str, str], runs: list[dict[str, str]]) -> Component:
    shared: dict[str, Any] = {
        "id": field_id(command, each.name),
        "label": each.label,
        "description": describe(each),
        "withAsterisk": each.required,
        "inputWrapperOrder": ["label", "input", "error", "description"],
    }
    shared["value"] = initial(each) if not each.required else prefilled.get(each.name, "")
    if each.name == "run":
        return dmc.Select(
            data=runs, searchable=True, clearable=not each.required, nothingFoundMessage="No such run",
            **_none_if_empty(shared),
        )  # fmt: skip
    if each.kind == "choices":
        return _several(each, shared)
    if each.kind == "choice":
        return dmc.Select(data=list(each.choices), allowDeselect=False, **shared)
    if each.kind == "bool":
        options = [{"value": "true", "label": "yes"}, {"value": "false", "label": "no"}]
        return dmc.Select(data=options, allowDeselect=False, **shared)
    if each.kind in ("int", "float"):
        return dmc.NumberInput(
            clampBehavior="none", allowDecimal=each.kind == "float", debounce=_WAIT_MS,
            placeholder="automatic" if each.default is None else "", **shared,
        )  # fmt: skip
    if each.name == "text" or (each.kind == "list" and each.item == "text"):
        return dmc.Textarea(autosize=True, minRows=2, maxRows=8, debounce=_WAIT_MS, **shared)
    if each.choices:
        return dmc.Autocomplete(data=list(each.choices), debounce=_WAIT_MS, **shared)
    return dmc.TextInput(debounce=_WAIT_MS, **shared)


def _several(each: FormField, shared: Mapping[str, Any]) -> Component:
    """Any number of names; where the field is empty, its placeholder says that this means all."""
    offered = [name for name in each.choices if name != ALL]
    more = {"data": offered, "placeholder": "" if shared["value"] else ALL, "clearable": True}
    return dmc.TagsInput(**more, **shared) if each.free else dmc.MultiSelect(**more, searchable=True, **shared)


def _none_if_empty(shared: dict[str, Any]) -> dict[str, Any]:
    return shared | {"value": shared["value"] or None}


def initial(each: FormField) -> Any:
    """The default as a control holds it; "all" is an empty field."""
    if each.kind == "choices":
        default = each.default if isinstance(each.default, tuple) else ()
        return [name for name in default if name != ALL]
    if isinstance(each.default, tuple):
        return ("\n" if each.item == "text" else ", ").join(map(str, each.default))
    if isinstance(each.default, bool):
        return str(each.default).lower()
    return "" if each.default is None else each.default


def describe(each: FormField) -> str:
    """What the field means, its bounds and its default, in sentences."""
    parts = [each.help[:1].upper() + each.help[1:]] if each.help else []
    if each.has_words:
        parts = [f"{parts[0].partition(':')[0]}: empty means {ALL}, “{NONE}” means none."] if parts else []
    if bounds := _bounds(each):
        parts.append(bounds)
    if each.kind == "list":
        parts.append("One per line." if each.item == "text" else "Commas between them.")
    default = initial(each)
    if default not in ("", []) and not each.required:
        parts.append(f"Default: {default if not isinstance(default, list) else ', '.join(default)}.")
    return " ".join(parts)


def _bounds(each: FormField) -> str:
    if each.minimum is not None and each.maximum is not None:
        return f"From {each.minimum:g} to {int(each.maximum) if each.maximum > 1e5 else f'{each.maximum:g}'}."
    if each.minimum is not None:
        return f"At least {each.minimum:g}."
    return f"At most {each.maximum:g}." if each.maximum is not None else ""
