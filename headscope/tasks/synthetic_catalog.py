"""The tasks that small models are trained on, by name; no torch until one is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headscope.errors import UnknownNameError

if TYPE_CHECKING:
    from headscope.tasks.synthetic import SyntheticTask


@dataclass(frozen=True, kw_only=True)
class SyntheticEntry:
    """One task of the catalog.

    Attributes:
        name: what the command line calls it.
        title: its name in print.
        asks: what it asks for, in one line.
        source: arXiv id, or where else it comes from.
        place: its class, as ``module:Class``.
        preset: settings that differ from the class's defaults.
        vectors: whether its inputs are vectors in place of tokens.
        regression: whether a number is asked in place of a token.
    """

    name: str
    title: str
    asks: str
    source: str
    place: str
    preset: Mapping[str, Any] = field(default_factory=dict[str, Any])
    vectors: bool = False
    regression: bool = False


_ENTRIES = (
    SyntheticEntry(
        name="mqar",
        title="Multi-query associative recall",
        asks="the value that stood beside each key",
        source="2312.04927",
        place="headscope.tasks.associative_recall:AssociativeRecall",
    ),
    SyntheticEntry(
        name="mqar-twice",
        title="Associative recall, pairs read twice",
        asks="the value that stood beside each key, after reading all pairs twice (JRT)",
        source="2407.05483",
        place="headscope.tasks.associative_recall:AssociativeRecall",
        preset={"passes": 2},
    ),
    SyntheticEntry(
        name="mqar-forgetting",
        title="Associative recall with new values",
        asks="the last value of each key, of which some were given a new one",
        source="HazyResearch/zoology",
        place="headscope.tasks.associative_recall:AssociativeRecall",
        preset={"updates": 4},
    ),
    SyntheticEntry(
        name="noisy-recall",
        title="Noisy in-context recall",
        asks="the value of a key that was seen before, between random tokens",
        source="2403.17844",
        place="headscope.tasks.noisy_recall:NoisyRecall",
    ),
    SyntheticEntry(
        name="induction",
        title="Repeated random tokens",
        asks="what followed the token last time",
        source="2209.11895",
        place="headscope.tasks.induction:Induction",
    ),
    SyntheticEntry(
        name="copying",
        title="Copying a string",
        asks="the string once more",
        source="2402.01032",
        place="headscope.tasks.copying:Copying",
    ),
    SyntheticEntry(
        name="ngram-lookup",
        title="n-gram lookup",
        asks="how the string goes on after some letters of it",
        source="2402.01032",
        place="headscope.tasks.copying:NgramLookup",
    ),
    SyntheticEntry(
        name="selective-copying",
        title="Selective copying",
        asks="the tokens that stood among blanks, in order",
        source="2312.00752",
        place="headscope.tasks.selective_copying:SelectiveCopying",
    ),
    SyntheticEntry(
        name="regular-languages",
        title="In-context language learning",
        asks="a symbol that the text's own regular language allows",
        source="2401.12973",
        place="headscope.tasks.regular_languages:RegularLanguages",
    ),
    SyntheticEntry(
        name="bigram-backcopy",
        title="Bigram-Backcopy",
        asks="the token before, after a trigger; else the next of a Markov chain",
        source="2410.13835",
        place="headscope.tasks.bigram_backcopy:BigramBackcopy",
    ),
    SyntheticEntry(
        name="in-context-classification",
        title="In-context classification",
        asks="the label of an item, from the context or from the weights",
        source="2312.03002",
        place="headscope.tasks.in_context_classification:InContextClassification",
        vectors=True,
    ),
    SyntheticEntry(
        name="linear-regression",
        title="In-context linear regression",
        asks="the value of a linear function that the text gives examples of",
        source="2503.12734",
        place="headscope.tasks.linear_regression:LinearRegression",
        vectors=True,
        regression=True,
    ),
    SyntheticEntry(
        name="documentation-text",
        title="Python's documentation",
        asks="the next character or byte pair of real text",
        source="Python's own library",
        place="headscope.tasks.documentation_text:DocumentationText",
    ),
)


def synthetic_tasks() -> Mapping[str, SyntheticEntry]:
    """All tasks by name."""
    return {entry.name: entry for entry in _ENTRIES}


def make_task(name: str, /, **settings: Any) -> SyntheticTask[Any]:
    """The task of a name, with some settings of its own.

    Raises:
        UnknownNameError: if there is none; suggests the nearest.
        ConfigError: for a setting that the task does not have, or with an impossible value.
    """
    if name not in synthetic_tasks():
        raise UnknownNameError.of("task", name, synthetic_tasks())
    entry = synthetic_tasks()[name]
    module, _, chosen = entry.place.partition(":")
    kind: type[SyntheticTask[Any]] = getattr(import_module(module), chosen)
    return kind(kind.settings_type.parse({**entry.preset, **settings}))
