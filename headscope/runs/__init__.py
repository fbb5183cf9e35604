"""Run folders: one per command, whole or marked unfinished, never anything between."""

from __future__ import annotations

from headscope.runs.index import RunSummary, find_run, find_run_id, list_runs
from headscope.runs.manifest import FileRecord, Manifest, ModelRecord, Stage
from headscope.runs.reading import Run
from headscope.runs.writing import RunWriter

__all__ = [
    "FileRecord",
    "Manifest",
    "ModelRecord",
    "Run",
    "RunSummary",
    "RunWriter",
    "Stage",
    "find_run",
    "find_run_id",
    "list_runs",
]
