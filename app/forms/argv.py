"""From settings to the shortest readable command line that gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.forms.fields import fields_of, plain
from headscope.config import Config

SUBJECT = "model"
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "score": {
        name: f"--{name}"
        for name in ("probes", "lengths", "depths", "needles", "haystack", "checks", "draws", "seed", "device", "dtype")
    },
    "inspect": {
        "prompts": "--prompt",
        "long_length": "--long",
        **{name: f"--{name}" for name in ("stages", "heads", "seed", "device", "dtype")},
    },
    "circuit": {
        "methods": "--method",
        **{name: f"--{name}" for name in ("task", "pairs", "judged", "seed", "device", "dtype")},
    },
    "circuit-bench": {
        "methods": "--method",
        **{name: f"--{name}" for name in ("tasks", "seeds", "examples", "seed", "device", "dtype")},
    },
    "calibrate": {
        "random_draws": "--draws",
        **{name: f"--{name}" for name in ("sets", "shots", "select", "test", "seeds", "seed", "device", "dtype")},
    },
    "policies": {
        "random_draws": "--draws",
        "gate_steps": "--gate-steps",
        **{name: f"--{name}" for name in ("policies", "tasks", "lengths", "examples", "budgets", "shares", "rules")},
        **{name: f"--{name}" for name in ("seed", "device", "dtype")},
    },
    "train": {
        name: f"--{name}"
        for name in (
            *("variants", "rates", "seeds", "widths", "layers", "heads", "steps", "batch", "pictures"),
            *("seed", "device"),
        )
    },
    "compare": {name: f"--{name}" for name in ("run", "task", "seeds", "examples", "draws", "lengths", "seed")},
}
"""The option that gives a setting, by command; all others are given by ``--set``."""

_REPEATED = ("--prompt",)
_WORDS = {"--checks": ("all", "none")}
_BARE = re.compile(r"^[A-Za-z./~_][\w./~:@+-]*\Z", flags=re.ASCII)
_ITEM = re.compile(r"^[\w.][\w.+-]*\Z", flags=re.ASCII)


def argv_of(
    command: str, config: Config, *, subjects: tuple[str, ...] = (SUBJECT,), leave_out: tuple[str, ...] = ()
) -> list[str]:
    """``[command, model, "--draws", "50", ...]``: the model, and each setting that is not at its default.

    A setting is given by its own option where the command has one that can hold the value, else by ``--set``. A model
    whose name looks like an option comes last, after ``--``. Settings that no form shows are left out.

    Args:
        command: the command.
        config: its settings.
        subjects: settings that stand before the options, in place of the model; several values are several words.
        leave_out: settings that the caller writes.
    """
    words = list[str]()
    for field in fields_of(type(config)):
        value = getattr(config, field.name)
        info = type(config).model_fields[field.name]
        if field.name in (*subjects, *leave_out) or (
            not info.is_required() and value == info.get_default(call_default_factory=True)
        ):
            continue
        named = _named(OPTIONS.get(command, {}).get(field.name, ""), plain(value))
        words += named or ["--set", f"{field.name}={_written(plain(value))}"]
    given = [plain(getattr(config, name)) for name in subjects]
    named = [str(word) for value in given for word in (value if isinstance(value, tuple) else (value,))]
    is_odd = any(word.startswith("-") for word in named)
    return [command, *words, "--", *named] if is_odd else [command, *named, *words]


def _named(option: str, value: Any) -> list[str]:
    """The option with the value; empty where there is no option, or it would be read as another value."""
    if not option:
        return []
    if option in _REPEATED:
        texts = [str(item) for item in value]
        return [word for text in texts for word in (option, text)] if not any(map(_is_odd, texts)) else []
    if not isinstance(value, tuple):
        text = str(value)
        return [] if _is_odd(text) or (isinstance(value, str) and text != text.strip()) else [option, text]
    if not value and option in _WORDS:
        return [option, "none"]
    items = [str(item) for item in value]
    text = ",".join(items)
    fits = all(map(_ITEM.match, items)) and text not in _WORDS.get(option, ()) and not text.endswith(".json")
    return [option, text] if items and fits else []


def _is_odd(text: str) -> bool:
    """Whether a text may be taken for an option or for nothing."""
    return not text or text.startswith("-")


def _written(value: Any) -> str:
    """JSON, or the bare text where that cannot be taken for JSON."""
    if isinstance(value, str) and _BARE.match(value) and not _is_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
