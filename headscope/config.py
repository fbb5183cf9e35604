"""Settings: frozen pydantic models that refuse unknown keys and explain themselves in one line."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from headscope.errors import ConfigError

C = TypeVar("C", bound="Config")
_SHOWN = 60


def canonical_json(data: Any) -> str:
    """Write plain data as JSON with sorted keys and no blanks: equal data, equal text.

    Raises:
        ValueError: if a number is not finite (JSON has no word for it).
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash8(data: Any) -> str:
    """First 8 hexadecimal digits of the sha256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:8]


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def hash8(self) -> str:
        """First 8 hexadecimal digits of the sha256 of the canonical JSON of all settings."""
        return hash8(self.model_dump(mode="json"))

    @classmethod
    def parse(cls: type[C], data: Any) -> C:
        """Check ``data`` (a mapping of settings) and build the config.

        Raises:
            ConfigError: one line that names each wrong setting, what was given and what is allowed.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            reasons = [_explain(cls, detail) for detail in _told([dict(detail) for detail in error.errors()])]
            raise ConfigError(" ".join(reasons)) from None


def _told(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but what only follows: a list that is too short because what it was given is wrong."""
    places = [detail["loc"] for detail in details]

    def follows(detail: dict[str, Any]) -> bool:
        at = detail["loc"]
        return detail["type"] == "too_short" and any(len(one) > len(at) and one[: len(at)] == at for one in places)

    return [detail for detail in details if not follows(detail)]


def _explain(model: type[BaseModel], detail: dict[str, Any]) -> str:
    where: Sequence[str | int] = detail["loc"]
    name = ".".join(str(part) for part in where)
    if detail["type"] == "extra_forbidden":
        return _explain_unknown(model, where)
    if detail["type"] == "missing":
        return f"the setting {name!r} is missing."
    said = str(detail["msg"]).removeprefix("Value error, ").rstrip(".")
    said = said.replace("Input should be", "it should be", 1)
    if detail["type"] == "too_short" and not detail["input"]:
        return f"the setting {name!r} is empty: give it at least one value."
    if where and isinstance(where[-1], int) and not isinstance(detail["input"], (dict, list, tuple)):
        subject, verb = f"the setting {'.'.join(str(part) for part in where[:-1])!r}", "hold"  # one value of a list
    else:
        subject, verb = f"the setting {name!r}" if name else "settings", "be"
    end = "" if said.endswith("?") else "."
    return f"{subject} cannot {verb} {_short(detail['input'])}: {said}{end}{_nearest(detail)}"


def _nearest(detail: dict[str, Any]) -> str:
    """``Did you mean 'needle'?`` where one of a few words was expected."""
    if detail["type"] != "literal_error":
        return ""
    allowed = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
    near = difflib.get_close_matches(str(detail["input"]), allowed, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _explain_unknown(model: type[BaseModel], where: Sequence[str | int]) -> str:
    owner = _owner(model, where[:-1])
    allowed = sorted(owner.model_fields) if owner else []
    near = difflib.get_close_matches(str(where[-1]), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f" (allowed: {', '.join(allowed)})" if allowed else ""
    return f"there is no setting {'.'.join(str(part) for part in where)!r}{listed}.{hint}"


def _owner(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that holds the key after the path ``where``, or None if the path leads through a union."""
    owner: type[BaseModel] | None = model
    for part in where:
        field = owner.model_fields.get(str(part)) if owner else None
        if field is None:
            if isinstance(part, int):
                continue
            return None
        owner = _model_in(field.annotation)
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [model for inner in get_args(annotation) if (model := _model_in(inner)) is not None]
    return found[0] if len(found) == 1 else None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
