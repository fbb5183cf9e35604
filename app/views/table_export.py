"""A table of a run as files for other programs, with what its columns mean and where it comes from."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from app.views.export import export_meta
from app.views.table import Cell, Table
from headscope.runs.reading import Run
from headscope.runs.tables import table_bytes


def rows_json(run: Run, table: Table, name: str) -> str:
    """Rows, under ``name``, and meaning as one JSON object."""
    return _written({**_meaning(run, table, name), name: table.records()})


def rows_meta_json(run: Run, table: Table, name: str) -> str:
    """What the rows mean and where they come from, as JSON."""
    return _written(_meaning(run, table, name))


def rows_parquet(table: Table) -> bytes:
    """The rows as a parquet table."""
    names = [column.name for column in table.columns]
    rows = table.records()
    schema = pa.schema([(name, _type_of([row[name] for row in rows])) for name in names])
    return table_bytes(pa.Table.from_pylist(rows, schema=schema))


def _meaning(run: Run, table: Table, name: str) -> dict[str, Any]:
    meanings = {column.name: column.meaning or column.title for column in table.columns}
    return {**export_meta(run), "columns": meanings, f"{name}_are": dict(table.meta)}


def _written(whole: dict[str, Any]) -> str:
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _type_of(cells: list[Cell]) -> pa.DataType:
    """What a column holds; numbers, where it holds nothing."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return pa.bool_()
    if str in kinds:
        return pa.string()
    return pa.int64() if kinds == {int} else pa.float64()
