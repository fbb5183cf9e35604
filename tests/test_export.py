"""CSV, JSON and parquet hold the same rows, and these are the numbers of the run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import astuple, replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from app.views.arm_export import arms_of, has_arms
from app.views.export import COLUMNS, export_meta, export_rows, to_csv, to_json, to_parquet
from headscope.errors import ConfigError
from headscope.heads import HeadScores
from headscope.runs import Run, RunWriter


@pytest.fixture
def run(tiny_run: Path) -> Run:
    return Run.open(tiny_run)


def test_csv_json_and_parquet_hold_the_same_rows(run: Run) -> None:
    rows = [dict(zip(COLUMNS, astuple(row), strict=True)) for row in export_rows(run)]
    kinds = {"layer": int, "head": int, "kv_head": int, "n": int, "value": float, "low": float, "high": float}
    from_csv = [
        {name: None if cell == "" else kinds.get(name, str)(cell) for name, cell in row.items()}
        for row in csv.DictReader(StringIO(to_csv(run)))
    ]
    assert from_csv == rows
    assert json.loads(to_json(run))["scores"] == rows
    assert pq.read_table(BytesIO(to_parquet(run))).to_pylist() == rows


def test_rows_are_the_numbers_of_the_run_to_the_last_bit(run: Run) -> None:
    rows = pd.DataFrame([astuple(row) for row in export_rows(run)], columns=list(COLUMNS))
    frames = pd.concat([scores.to_frame() for scores in run.scores().values()], ignore_index=True)
    pd.testing.assert_frame_equal(rows, frames[list(COLUMNS)], check_exact=True, check_dtype=False)


def test_rows_are_those_of_the_table_in_the_run_folder(run: Run) -> None:
    exported = pq.read_table(BytesIO(to_parquet(run))).drop_columns("label")
    assert exported.to_pylist() == pq.read_table(run.path / "scores.parquet").to_pylist()


def test_meaning_and_provenance_come_along(run: Run) -> None:
    meta = export_meta(run)
    assert {one["name"] for one in meta["definitions"]} == set(run.scores())
    assert meta["run"] == run.manifest.id
    for name in ("model", "config", "command", "seed", "versions", "commit", "machine", "started", "card"):
        assert name in meta
    whole = json.loads(to_json(run))
    assert {name: whole[name] for name in meta} == json.loads(json.dumps(meta))
    assert len(whole["checks"]) == 3


def test_text_that_a_spreadsheet_would_run_is_quoted_and_numbers_are_not(
    tmp_path: Path, start_tiny_run: Callable[[Path], RunWriter], tiny_scores: dict[str, list[HeadScores]]
) -> None:
    (entropy,) = tiny_scores["entropy"]
    evil = '=HYPERLINK("http://x","y")'
    definition = replace(entropy.definition, name="+evil", unit=evil)
    stranger = replace(entropy, definition=definition, values=-np.ones_like(entropy.values))
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("entropy", [stranger], seconds=0.1)
        run = Run.open(writer.path)
        row = next(csv.DictReader(StringIO(to_csv(run))))
        assert (row["score"], row["unit"], row["value"]) == ("'+evil", f"'{evil}", "-1.0")
        assert json.loads(to_json(run))["scores"][0]["unit"] == evil


def test_arms_are_refused_of_a_run_that_has_none(run: Run) -> None:
    assert not has_arms(run)
    with pytest.raises(ConfigError, match=r"is of the kind 'score' and has no arms.*Leave out --what"):
        arms_of(run)


def test_run_without_any_score_yet_exports_no_rows(tmp_path: Path, start_tiny_run: Callable[[Path], RunWriter]) -> None:
    with start_tiny_run(tmp_path) as writer:
        run = Run.open(writer.path)
        assert to_csv(run) == ",".join(COLUMNS) + "\n"
        assert pq.read_table(BytesIO(to_parquet(run))).num_rows == 0
        assert json.loads(to_json(run))["is_complete"] is False
