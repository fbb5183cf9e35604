"""The labelled data sets by name; each is made from its templates and words when it is first asked for."""

from __future__ import annotations

import functools
import importlib

from headscope.errors import UnknownNameError
from headscope.tasks.labelled import LabelledSet

LABELLED: dict[str, str] = {
    "sentiment": "headscope.tasks.data_sentiment",
    "topic": "headscope.tasks.data_topic",
    "subjectivity": "headscope.tasks.data_subjectivity",
    "question-type": "headscope.tasks.data_question_type",
    "entailment": "headscope.tasks.data_entailment",
    "commonsense": "headscope.tasks.data_commonsense",
}
"""Names of the data sets, and the module whose ``build`` makes each."""

LM_EVAL = "lm-eval:"
"""Prefix of the tasks of `headscope.tasks.lm_eval`, which need a package and usually the network."""


@functools.cache
def labelled_set(name: str) -> LabelledSet:
    """A data set by name, the same items every time; ``lm-eval:<task>`` is a task of the lm-eval package.

    Raises:
        UnknownNameError: if there is none of that name.
        UnsupportedError: for an lm-eval task that cannot be used here.
    """
    if name.startswith(LM_EVAL):
        from headscope.tasks.lm_eval import load_lm_eval

        return load_lm_eval(name.removeprefix(LM_EVAL))
    if name not in LABELLED:
        raise UnknownNameError.of(
            "data set", name, LABELLED, f"Tasks of the lm-eval package are called {LM_EVAL}<task>."
        )
    return importlib.import_module(LABELLED[name]).build()
