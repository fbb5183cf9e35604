"""Circuits that were published, as data with their sources. No torch.

Heads are those of the papers. Edges are the expansion, to single heads, of the group-to-group connections that the
authors of ACDC distilled from each paper for their ROC curves (acdc/ioi, acdc/greaterthan and acdc/docstring of
ArthurConmy/Automatic-Circuit-Discovery): a reading of the papers, not a measurement. The notes of each circuit say
where the reading is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from circuits.ground_truth import GroundTruth
from headscope.heads import Head

Node = tuple[int, int | None]
"""Layer and head; the head is None for an MLP."""

_IOI_GROUPS: dict[str, tuple[Node, ...]] = {
    "name mover": ((9, 9), (10, 0), (9, 6)),
    "backup name mover": ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)),
    "negative name mover": ((10, 7), (11, 10)),
    "s-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "previous token": ((2, 2), (4, 11)),
}
_MOVERS = ("name mover", "backup name mover", "negative name mover")
_IOI_LINKS = (
    ("input", "previous token", "qkv"),
    ("input", "duplicate token", "qkv"),
    ("input", "s-inhibition", "q"),
    *(("input", mover, "kv") for mover in _MOVERS),
    ("previous token", "induction", "kv"),
    ("induction", "s-inhibition", "kv"),
    ("duplicate token", "s-inhibition", "kv"),
    *(("s-inhibition", mover, "q") for mover in _MOVERS),
    *((mover, "output", "") for mover in _MOVERS),
)

_GREATER_GROUPS: dict[str, tuple[Node, ...]] = {
    "0.3 and 0.5": ((0, 3), (0, 5)),
    "0.1": ((0, 1),),
    "early MLPs": ((0, None), (1, None), (2, None), (3, None)),
    "mid heads": ((5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)),
    "late MLPs": ((8, None), (9, None), (10, None), (11, None)),
}
_GREATER_LINKS = (
    ("input", "0.3 and 0.5", "qkv"),
    ("input", "0.1", "qkv"),
    ("input", "early MLPs", ""),
    ("0.1", "early MLPs", ""),
    ("0.1", "mid heads", "qkv"),
    ("0.3 and 0.5", "mid heads", "qkv"),
    ("early MLPs", "early MLPs", ""),
    ("early MLPs", "mid heads", "qkv"),
    ("mid heads", "late MLPs", ""),
    ("late MLPs", "late MLPs", ""),
    ("mid heads", "output", ""),
    ("late MLPs", "output", ""),
)

_DOCSTRING_GROUPS: dict[str, tuple[Node, ...]] = {
    "head 0.5": ((0, 5),),
    "head 1.4": ((1, 4),),
    "head 1.2": ((1, 2),),
    "head 2.0": ((2, 0),),
    "argument mover": ((3, 0), (3, 6)),
}
_DOCSTRING_LINKS = (
    ("input", "head 0.5", "v"),
    ("input", "head 1.4", "v"),
    ("head 0.5", "head 1.4", "v"),
    ("input", "head 1.2", "qk"),
    ("head 0.5", "head 1.2", "qk"),
    ("input", "head 2.0", "qk"),
    ("head 0.5", "head 2.0", "qk"),
    ("head 1.4", "head 2.0", "v"),
    ("head 1.4", "argument mover", "q"),
    ("input", "argument mover", "v"),
    ("head 0.5", "argument mover", "v"),
    ("head 2.0", "argument mover", "k"),
    ("head 1.2", "argument mover", "k"),
    ("argument mover", "output", ""),
)

_WITHOUT_MLPS = "edges to and from MLPs, which the paper left aside and ACDC's list takes in wholesale, are left out"


def _published(
    name: str,
    source: str,
    groups: Mapping[str, tuple[Node, ...]],
    links: Sequence[tuple[str, str, str]],
    *notes: str,
) -> GroundTruth:
    nodes = [node for group in groups.values() for node in group]
    mlps = frozenset(layer for layer, head in nodes if head is None)
    roles = {
        role: frozenset(Head(layer, head) for layer, head in group if head is not None)
        for role, group in groups.items()
    }
    return GroundTruth(
        name,
        "published",
        source,
        heads=frozenset().union(*roles.values()),
        edges=frozenset(edge for link in links for edge in _expand(groups, *link)),
        roles=MappingProxyType({role: heads for role, heads in roles.items() if heads}),
        mlps=mlps or None,
        notes=notes,
    )


def _expand(groups: Mapping[str, tuple[Node, ...]], writer: str, reader: str, inputs: str) -> Iterator[tuple[str, str]]:
    """All edges from one group to another that the order of the components allows."""
    for layer, head in groups.get(writer, ((-1, None),)):
        start = "input" if layer < 0 else _label(layer, head)
        if reader == "output":
            yield start, "output"
            continue
        for to_layer, to_head in groups[reader]:
            if layer < to_layer or (layer == to_layer and head is not None and to_head is None):
                yield from ((start, end) for end in _inputs(to_layer, to_head, inputs))


def _label(layer: int, head: int | None) -> str:
    return f"L{layer}.mlp" if head is None else f"L{layer}H{head}"


def _inputs(layer: int, head: int | None, inputs: str) -> list[str]:
    """Readers of a node; these models have a key/value head for every head."""
    if head is None:
        return [f"L{layer}.mlp"]
    return [f"L{layer}H{head}.q" if letter == "q" else f"L{layer}KV{head}.{letter}" for letter in inputs]


KNOWN: Mapping[tuple[str, str], GroundTruth] = MappingProxyType(
    {
        ("gpt2", "ioi"): _published(
            "gpt2 ioi",
            "Wang et al. 2022, arXiv 2211.00593, section 3 and figure 2: 26 heads",
            _IOI_GROUPS,
            _IOI_LINKS,
            _WITHOUT_MLPS,
            "negative name movers and backup name movers count as members, though they harm the answer or work only"
            " when others are ablated: a signed ranking cannot find them all",
            "7.1, a duplicate token head that the authors call unclear, and weaker previous token heads are left out",
        ),
        ("gpt2", "greater-than"): _published(
            "gpt2 greater-than",
            "Hanna et al. 2023, arXiv 2305.00586, section 3: 9 heads and 8 MLPs",
            _GREATER_GROUPS,
            _GREATER_LINKS,
            "edges from MLPs 4 to 7, which ACDC's list adds for the queries of the mid heads, are left out",
        ),
        ("attn-only-4l", "docstring"): _published(
            "attn-only-4l docstring",
            "Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer;"
            " edges as in Conmy et al. 2023, arXiv 2304.14997: 6 heads",
            _DOCSTRING_GROUPS,
            _DOCSTRING_LINKS,
            "ACDC counts 37 edges: these 24, and 13 more from an input of a head to its own query, key or value",
            "0.2, 0.4, 1.0, 0.1 and 2.3, which the authors add for performance, are left out",
        ),
    }
)
"""By the name of the model and of the task."""

_SAME_MODEL = {
    "openai-community/gpt2": "gpt2",
    "gpt2-small": "gpt2",
    "NeelNanda/Attn_Only_4L512W_C4_Code": "attn-only-4l",
}


def known_circuit(model: str, task: str) -> GroundTruth | None:
    """The published circuit of a model for a task; None if none was published, or none is written down here.

    Args:
        model: as the catalogue or the hub call it.
        task: name of the task.
    """
    return KNOWN.get((_SAME_MODEL.get(model, model), task))
