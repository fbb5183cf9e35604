"""Head scores as a parquet table: a row per score and head."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs.manifest import ModelRecord

SCHEMA = pa.schema(
    [
        ("score", pa.string()),
        ("layer", pa.int64()),
        ("head", pa.int64()),
        ("kv_head", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("unit", pa.string()),
    ]
)


def to_parquet(scores: Iterable[HeadScores]) -> bytes:
    """Write scores as one parquet table with the columns of `SCHEMA`; NaN becomes null."""
    return table_bytes(pa.concat_tables([SCHEMA.empty_table(), *(_to_table(score) for score in scores)]))


def table_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def read_table(content: bytes) -> pa.Table:
    """Read a parquet table with the columns of `SCHEMA`.

    Raises:
        ValueError: if it does not parse (pyarrow's ArrowInvalid is one) or has other columns.
    """
    try:  # on this thread alone: a reader thread that is not done when the process exits aborts it (arrow #34314)
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except OSError as error:  # pyarrow's word for a page it cannot decompress
        raise ValueError(str(error)) from None
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"its columns are {table.schema.names}, they should be {SCHEMA.names}")
    return table


def scores_of(table: pa.Table, definition: ScoreDefinition, model: ModelRecord) -> HeadScores:
    """Pick one score out of a table of many.

    Raises:
        ValueError: if the table does not hold that score exactly once for every head of the model.
    """
    rows = table.filter(pc.call_function("equal", [table["score"], pa.scalar(definition.name)]))
    layer, head = (rows[name].to_numpy() for name in ("layer", "head"))
    place = layer * model.n_heads + head
    size = model.n_layers * model.n_heads
    if not np.array_equal(np.sort(place), np.arange(size)) or (head >= model.n_heads).any():
        raise ValueError(f"it does not hold the score {definition.name!r} once for each of the {size} heads")

    def grid(column: str) -> np.ndarray:
        values = rows[column].to_numpy()
        return values[np.argsort(place)].reshape(model.n_layers, model.n_heads)

    return HeadScores(
        definition=definition,
        model=model.name,
        values=grid("value"),
        low=grid("low"),
        high=grid("high"),
        n=grid("n"),
        n_kv_heads=model.n_kv_heads,
    )


def _to_table(score: HeadScores) -> pa.Table:
    layer, head = np.indices(score.values.shape).reshape(2, -1)
    floats = [part.astype(np.float64).ravel() for part in (score.values, score.low, score.high)]
    columns = [
        pa.repeat(score.name, layer.size),
        layer,
        head,
        np.array([score.kv_head(int(index)) for index in head]),
        *(pa.array(part, from_pandas=True) for part in floats),
        score.n.astype(np.int64).ravel(),
        pa.repeat(score.definition.unit, layer.size),
    ]
    return pa.table(columns, schema=SCHEMA)
