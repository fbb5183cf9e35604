"""From a config class to form fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from app.forms.choices import OFFERED, Choices
from headscope.config import Config

Kind = Literal["text", "int", "float", "bool", "choice", "list", "choices"]
Item = Literal["text", "int", "float"]
Plain = str | int | float | bool | tuple[str | int | float, ...] | None

ALL, NONE = "all", "none"

BASIC = frozenset(
    {
        "model",
        "probes",
        "checks",
        "lengths",
        "draws",
        "seed",
        "run",
        "out",
        "format",
        "stages",
        "prompts",
        "heads",
        "text",
        "random",
        "a",
        "b",
        "position",
        "task",
        "tasks",
        "methods",
        "pairs",
        "judged",
        "seeds",
        "examples",
        "sets",
        "shots",
        "select",
        "test",
        "policies",
        "budgets",
        "shares",
        "rules",
        "variants",
        "rates",
        "widths",
        "layers",
        "steps",
        "pictures",
        "options",
        "models",
    }
)
_KINDS: dict[str, Item] = {"integer": "int", "number": "float", "string": "text"}
_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")


@dataclass(frozen=True)
class FormField:
    """One setting as a field of a form.

    Attributes:
        name: of the setting.
        label: name for people.
        help: what it means, from the docstring of the config class.
        kind: ``choice`` is one of ``choices``, ``choices`` any number of them, ``list`` several values of ``item``.
        item: what a list holds; of other fields, what one value is.
        default: as the form shows it; None is an empty field.
        required: whether it must be filled in.
        minimum: least number allowed (of each item of a list).
        maximum: greatest number allowed.
        choices: values offered. Where "all" and "none" are among them, an empty field is "all".
        free: whether values besides the choices may be typed.
        group: ``basic`` fields come first.
    """

    name: str
    label: str
    help: str
    kind: Kind
    item: Item = "text"
    default: Plain = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    free: bool = False
    group: Literal["basic", "advanced"] = "advanced"

    @property
    def has_words(self) -> bool:
        """Whether "all" and "none" are choices: the setting tells None (all) from an empty list (none)."""
        return self.kind == "choices" and self.choices[:2] == (ALL, NONE)


def fields_of(config_class: type[Config]) -> list[FormField]:
    """The fields of a config, required and then basic ones first, else in the order of the class.

    Settings that no form can show (mappings) are left out.
    """
    schema = config_class.model_json_schema()
    helps = _attribute_helps(config_class)
    found = [_field(config_class, name, schema, helps.get(name, "")) for name in config_class.model_fields]
    return sorted(
        (field for field in found if field is not None), key=lambda field: (not field.required, field.group != "basic")
    )


def plain(value: Any) -> Plain:
    """A setting's value without enums and paths."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (tuple, list)):
        return tuple(plain(item) for item in value)  # type: ignore[misc]
    return str(value) if isinstance(value, Path) else value


def _field(config_class: type[Config], name: str, schema: dict[str, Any], help: str) -> FormField | None:
    info = config_class.model_fields[name]
    entry, optional = _resolve(schema["properties"][name], schema)
    items = _resolve(entry.get("items", {}), schema)[0] if entry.get("type") == "array" else entry
    own = Choices(tuple(_own_enum(schema["properties"][name])))
    offered = (own if own.names else OFFERED.get(name)) or Choices(tuple(items.get("enum", ())))
    kind = _kind(entry, offered)
    if kind is None:
        return None
    default = None if info.is_required() else plain(info.get_default(call_default_factory=True))
    words = kind == "choices" and optional
    return FormField(
        name=name,
        label=name.replace("_", " ").capitalize(),
        help=help.replace("``", ""),
        kind=kind,
        item=_KINDS.get(items.get("type", ""), "text"),
        default=(ALL,) if words and default is None else default,
        required=info.is_required(),
        minimum=_bound(items, "minimum", "exclusiveMinimum", 1),
        maximum=_bound(items, "maximum", "exclusiveMaximum", -1),
        choices=((ALL, NONE) if words else ()) + offered.names,
        free=offered.free,
        group="basic" if info.is_required() or name in BASIC else "advanced",
    )


def _own_enum(entry: dict[str, Any]) -> Sequence[str]:
    """Values that the class itself names, for the setting or for each of its items."""
    return entry.get("enum") or entry.get("items", {}).get("enum") or ()


def _kind(entry: dict[str, Any], offered: Choices) -> Kind | None:
    type_name = entry.get("type")
    if type_name == "array":
        return "choices" if offered.names else "list"
    if offered.names and type_name == "string":
        return "text" if offered.free else "choice"
    return "bool" if type_name == "boolean" else _KINDS.get(str(type_name))


def _resolve(entry: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A property without references and without "or null"; and whether null was allowed."""
    optional = False
    if "anyOf" in entry:
        kept = [one for one in entry["anyOf"] if one.get("type") != "null"]
        optional = len(kept) < len(entry["anyOf"])
        entry = kept[0] if len(kept) == 1 else {}
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    return entry, optional


def _bound(entry: dict[str, Any], closed: str, open: str, step: int) -> float | None:
    if closed in entry:
        return entry[closed]
    if open in entry:
        return entry[open] + step if entry.get("type") == "integer" else entry[open]
    return None


def _attribute_helps(config_class: type[Config]) -> dict[str, str]:
    """The Attributes sections of the class and its bases, by attribute."""
    found = dict[str, str]()
    for one in reversed(config_class.__mro__):
        name, section = "", inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        for line in section.splitlines():
            if entry := _ENTRY.match(line):
                name, found[entry[1]] = entry[1], entry[2]
            elif line.startswith(" " * 8) and name:
                found[name] += " " + line.strip()
            else:
                name = ""
    return found
