"""Token batches with known answers: what probes and interventions are run on.

Importing this package loads no torch; a name brings in what it needs when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headscope.lazy import lazy_names

if TYPE_CHECKING:
    from headscope.models.protocol import Needle
    from headscope.tasks.answers import (
        AnswerBatch,
        answer_accuracy,
        answer_exact,
        answer_loss,
        answer_score,
        needle_answers,
        prose_answers,
        repeated_answers,
    )
    from headscope.tasks.contrast import ContrastBatch
    from headscope.tasks.contrast_catalog import CONTRAST_TASKS, ContrastTask, contrast_task
    from headscope.tasks.contrast_performance import TaskPerformance, judge, require
    from headscope.tasks.contrasts import build_contrast, describe_pair
    from headscope.tasks.haystack import load_haystack
    from headscope.tasks.in_context import InContextBatch, build_in_context
    from headscope.tasks.in_context_scores import label_scores
    from headscope.tasks.labelled import LabelledItem, LabelledSet, LabelledSplit
    from headscope.tasks.labelled_catalog import LABELLED, labelled_set
    from headscope.tasks.lm_eval import from_lm_eval
    from headscope.tasks.multi_needle import CODES, NeedleForm, build_multi_needle
    from headscope.tasks.needle import NEEDLES, NeedleBatch, build_needles
    from headscope.tasks.passkeys import PasskeyForm, build_passkeys, passkey_lengths
    from headscope.tasks.prose import build_prose
    from headscope.tasks.repeated import RepeatedTokens, build_repeated
    from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask, exact_accuracy
    from headscope.tasks.synthetic_catalog import SyntheticEntry, make_task, synthetic_tasks
    from headscope.tasks.variable_tracking import build_variable_tracking

_WHERE = {
    "AnswerBatch": "headscope.tasks.answers",
    "CODES": "headscope.tasks.multi_needle",
    "CONTRAST_TASKS": "headscope.tasks.contrast_catalog",
    "ContrastBatch": "headscope.tasks.contrast",
    "ContrastTask": "headscope.tasks.contrast_catalog",
    "InContextBatch": "headscope.tasks.in_context",
    "LABELLED": "headscope.tasks.labelled_catalog",
    "LabelledItem": "headscope.tasks.labelled",
    "LabelledSet": "headscope.tasks.labelled",
    "LabelledSplit": "headscope.tasks.labelled",
    "NEEDLES": "headscope.tasks.needle",
    "Needle": "headscope.models.protocol",
    "NeedleBatch": "headscope.tasks.needle",
    "NeedleForm": "headscope.tasks.multi_needle",
    "PasskeyForm": "headscope.tasks.passkeys",
    "RepeatedTokens": "headscope.tasks.repeated",
    "SyntheticBatch": "headscope.tasks.synthetic",
    "SyntheticEntry": "headscope.tasks.synthetic_catalog",
    "SyntheticTask": "headscope.tasks.synthetic",
    "TaskPerformance": "headscope.tasks.contrast_performance",
    "answer_accuracy": "headscope.tasks.answers",
    "answer_exact": "headscope.tasks.answers",
    "answer_loss": "headscope.tasks.answers",
    "answer_score": "headscope.tasks.answers",
    "build_contrast": "headscope.tasks.contrasts",
    "build_in_context": "headscope.tasks.in_context",
    "build_multi_needle": "headscope.tasks.multi_needle",
    "build_needles": "headscope.tasks.needle",
    "build_passkeys": "headscope.tasks.passkeys",
    "build_prose": "headscope.tasks.prose",
    "build_repeated": "headscope.tasks.repeated",
    "build_variable_tracking": "headscope.tasks.variable_tracking",
    "contrast_task": "headscope.tasks.contrast_catalog",
    "describe_pair": "headscope.tasks.contrasts",
    "exact_accuracy": "headscope.tasks.synthetic",
    "from_lm_eval": "headscope.tasks.lm_eval",
    "judge": "headscope.tasks.contrast_performance",
    "label_scores": "headscope.tasks.in_context_scores",
    "labelled_set": "headscope.tasks.labelled_catalog",
    "load_haystack": "headscope.tasks.haystack",
    "make_task": "headscope.tasks.synthetic_catalog",
    "needle_answers": "headscope.tasks.answers",
    "passkey_lengths": "headscope.tasks.passkeys",
    "prose_answers": "headscope.tasks.answers",
    "repeated_answers": "headscope.tasks.answers",
    "require": "headscope.tasks.contrast_performance",
    "synthetic_tasks": "headscope.tasks.synthetic_catalog",
}
__all__ = [
    "CODES",
    "CONTRAST_TASKS",
    "LABELLED",
    "NEEDLES",
    "AnswerBatch",
    "ContrastBatch",
    "ContrastTask",
    "InContextBatch",
    "LabelledItem",
    "LabelledSet",
    "LabelledSplit",
    "Needle",
    "NeedleBatch",
    "NeedleForm",
    "PasskeyForm",
    "RepeatedTokens",
    "SyntheticBatch",
    "SyntheticEntry",
    "SyntheticTask",
    "TaskPerformance",
    "answer_accuracy",
    "answer_exact",
    "answer_loss",
    "answer_score",
    "build_contrast",
    "build_in_context",
    "build_multi_needle",
    "build_needles",
    "build_passkeys",
    "build_prose",
    "build_repeated",
    "build_variable_tracking",
    "contrast_task",
    "describe_pair",
    "exact_accuracy",
    "from_lm_eval",
    "judge",
    "label_scores",
    "labelled_set",
    "load_haystack",
    "make_task",
    "needle_answers",
    "passkey_lengths",
    "prose_answers",
    "repeated_answers",
    "require",
    "synthetic_tasks",
]
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
