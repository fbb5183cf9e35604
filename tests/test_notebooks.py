"""Every notebook runs from top to bottom, in a kernel of its own, on fewer examples than a reader's."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
LIMIT_S = 120
SMALLER = {
    "01_score_heads": (
        ("repeated_examples=8, needle_examples=6", "repeated_examples=3, needle_examples=2"),
        ("induction, draws=20", "induction, draws=5"),
        ("ProbeConfig(repeated_examples=8)", "ProbeConfig(repeated_examples=2)"),
    ),
    "02_heads_of_a_real_model": (
        (
            "lengths=(256,), needle_examples=6, repeated_examples=6",
            "lengths=(192,), needle_examples=2, repeated_examples=2",
        ),
        ("draws=10", "draws=2"),
    ),
    "03_a_circuit_in_20_seconds": (
        ("n=16", "n=6"),
        ("pairs.select(range(8)), pairs.select(range(8, 16))", "pairs.select(range(3)), pairs.select(range(3, 6))"),
        ("random_draws=5", "random_draws=1"),
        ("n=20", "n=8"),
    ),
    "04_calibrating_attention": (
        ("select=12, test=16", "select=4, test=4"),
        ("top=8", "top=3"),
        ("random_draws=2", "random_draws=1"),
    ),
    "05_cutting_the_cache": (
        ("lengths=(192,), needle_examples=4", "lengths=(192,), needle_examples=2"),
        ("length=192, n=4", "length=192, n=1"),
    ),
    "06_variants_and_their_heads": (("n=64, draws=20", "n=16, draws=2"), ('"steps": 500', '"steps": 50')),
}
"""What a test changes in the code of a notebook: sizes only. Each stands there once."""


def smaller(notebook: Path) -> str:
    """The notebook's text with fewer examples."""
    text = notebook.read_text()
    for size, few in SMALLER.get(notebook.stem, ()):
        assert text.count(size) == 1, f"{notebook.name} has no {size!r} any more, or more than one: see SMALLER"
        text = text.replace(size, few)
    return text


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_a_fresh_kernel(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = jupytext.reads(smaller(notebook), fmt="py:percent")
    done = NotebookClient(cells, timeout=LIMIT_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in shown), "no figure was drawn"
    assert not [path for path in tmp_path.iterdir() if path.name != "ipython"], "it leaves files behind"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_with_a_title_in_markdown(notebook: Path) -> None:
    """jupytext percent format: cells start with ``# %%``, the first one is the title."""
    first = notebook.read_text().split("# %%")
    assert len(first) > 2
    assert first[1].lstrip().startswith("[markdown]\n# #")
