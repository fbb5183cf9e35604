"""The numbers of a record: NaN and infinities are text there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.evaluation import Spread

_NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def spread(record: Mapping[str, Any]) -> Spread:
    """A figure with its interval, as a record keeps it."""
    ends = {name: number(record[name]) for name in ("value", "low", "high")}
    rest: dict[str, Any] = {name: value for name, value in record.items() if name not in ends}
    return Spread(**ends, **rest)


def number(value: Any) -> float:
    """A number of a record: NaN and infinities are text there."""
    return _NUMBERS[value] if isinstance(value, str) and value in _NUMBERS else float(value)
