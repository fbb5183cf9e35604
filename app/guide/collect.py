"""Write ``definitions.json`` anew from the probes and the methods: ``python -m app.guide.collect``.

Loads torch, so nothing that serves pages imports it.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

from app.guide.entries import FILE, Note, Section

_MODULES = {
    **{
        name: f"probes.{name}"
        for name in (
            "previous_token", "duplicate_token", "induction", "copying", "sink", "local", "entropy", "retrieval",
            "needle_grid", "weights",
        )
    },
    "direct_logits": "probes.direct_logits",
    "logit_lens": "probes.logit_lens",
    "single_heads": "circuits.single_heads",
    "agreement": "circuits.evaluation.agreement",
    "curves": "circuits.evaluation.curves",
    "faithfulness": "circuits.faithfulness",
    "stability": "circuits.stability",
    "graph": "circuits.graph",
    "act": "circuits.calibration.act",
    "act_sinks": "circuits.calibration.sinks",
}  # fmt: skip
_OBJECTS = {
    "causal_check": "circuits.validation:validate",
    "ablations": "circuits.ablations:Ablation",
    "p_value": "headscope.statistics:permutation_p",
    "rank_agreement": "headscope.statistics:rank_agreement",
    "rank_interval": "headscope.statistics:rank_agreement_interval",
    "bootstrap": "headscope.statistics:bootstrap_mean",
}
_LABEL = re.compile(
    r"^(?:\*\*)?(Definitions?(?:, [^:\n]+| \([^):\n]+\))?|Sources?|Pitfalls|Range|Tokens|Second column"
    r"|Activation frequency|Differences from the released code|zero|mean|resample|uniform|to_bos)(?:\*\*)?:\s*",
    re.MULTILINE,
)
_BLOCK = re.compile(r"(?<=:):\n\n((?: {4}.*(?:\n|$)|\n)+)")


def collect() -> dict[str, Any]:
    """What the file holds, as plain data."""
    from probes.census import PROBES

    notes = [note_of(name, inspect.getdoc(import_module(module)) or "") for name, module in _MODULES.items()]
    for name, place in _OBJECTS.items():
        module, _, member = place.partition(":")
        notes.append(note_of(name, inspect.getdoc(getattr(import_module(module), member)) or ""))
    definitions = [asdict(each) for probe in PROBES.values() for each in probe.definitions]
    return {"definitions": definitions, "notes": [asdict(note) for note in notes]}


def note_of(name: str, docstring: str) -> Note:
    """A docstring cut at its labels; arguments, results and errors are left out."""
    text = re.split(r"^(?:Args|Returns|Raises|Attributes):$", docstring, flags=re.MULTILINE)[0]
    head, _, rest = text.partition("\n")
    cuts = [*_LABEL.finditer(rest)]
    lead = _lead(rest[: cuts[0].start()] if cuts else rest)
    ends = [*(cut.start() for cut in cuts[1:]), len(rest)][: len(cuts)]
    parts = [Section(cut.group(1), _joined(rest[cut.end() : end])) for cut, end in zip(cuts, ends, strict=True)]
    return Note(name, _joined(head), tuple([*lead, *parts]))


def _lead(text: str) -> list[Section]:
    """What precedes the labels; indented blocks behind ``::`` keep their lines."""
    pieces = enumerate(_BLOCK.split(text))
    return [
        Section("Formula", dedent(piece).strip("\n")) if number % 2 else Section("", _joined(piece))
        for number, piece in pieces
        if piece.strip()
    ]


def _joined(text: str) -> str:
    return " ".join(text.split())


def file_text(data: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(file_text(collect()), encoding="utf-8")
