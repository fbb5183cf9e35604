"""Frozen dataclasses of numpy arrays to JSON and named arrays, and back by their type hints."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np

from headscope.heads import Head

D = TypeVar("D")
_ARRAY = "array"


def pack(value: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """Plain JSON data of ``value``; its arrays are put into ``arrays`` under the names that the data refers to."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {_ARRAY: path}
    if isinstance(value, Head):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: pack(getattr(value, name), arrays, f"{path}/{name}") for name in names}
    if isinstance(value, tuple | list):
        return [pack(item, arrays, f"{path}/{index}") for index, item in enumerate(cast("tuple[Any, ...]", value))]
    return value


def named_arrays(data: Any) -> Iterator[str]:
    """Names of the arrays that packed data refers to."""
    if isinstance(data, Mapping):
        if set(data) == {"array"}:
            yield str(data["array"])
        else:
            for item in data.values():
                yield from named_arrays(item)
    elif isinstance(data, list):
        for item in data:
            yield from named_arrays(item)


def unpack(kind: type[D], data: Any, arrays: Mapping[str, np.ndarray]) -> D:
    """The dataclass that `pack` was given."""
    return cast(D, _unpack(kind, data, arrays))


def _unpack(hint: Any, data: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if data is None:
        return None
    if isinstance(data, dict) and set(cast("dict[str, Any]", data)) == {_ARRAY}:
        return arrays[str(data[_ARRAY])]
    if get_origin(hint) is types.UnionType:
        hint = next(option for option in get_args(hint) if option is not type(None))
    if hint is Head:
        return Head.parse(str(data))
    if hint is float:
        return float(cast(Any, data))  # a record of a run holds NaN and infinities as text
    if dataclasses.is_dataclass(hint):
        hints = _hints(cast(type, hint))
        return cast(Any, hint)(**{name: _unpack(hints[name], item, arrays) for name, item in data.items()})
    if isinstance(hint, type) and hasattr(hint, "_fields"):  # a named tuple of numbers
        return cast(Any, hint)(*map(float, data))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        each = inner[:1] * len(data) if inner[1:] == (Ellipsis,) else inner
        return tuple(_unpack(one, item, arrays) for one, item in zip(each, data, strict=True))
    return data


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
