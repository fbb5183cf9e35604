"""Multiple-choice tasks of the lm-eval package as labelled sets, for users who have it and the network.

Every task of lm-eval that compares the likelihood of given continuations works: hellaswag, arc_easy, piqa, openbookqa,
copa, commonsense_qa, sst2, boolq, ... Their documents become items whose text is the task's own prompt and whose
options are its own choices; the package downloads the data.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from typing_extensions import Protocol, runtime_checkable

from headscope.errors import TaskError, UnknownNameError, UnsupportedError
from headscope.tasks.labelled import LabelledItem, LabelledSet

NAME = "lm-eval:"
_SPLITS = ("test", "validation", "training")


@runtime_checkable
class LmEvalTask(Protocol):
    """What is used of ``lm_eval.api.task.Task`` (lm-eval 0.4)."""

    OUTPUT_TYPE: Any

    def doc_to_text(self, doc: Any) -> Any:
        """The prompt up to the answer; a number where the choices differ in the prompt."""
        ...

    def doc_to_choice(self, doc: Any) -> Any:
        """The continuations to choose from."""
        ...

    def doc_to_target(self, doc: Any) -> Any:
        """The right one: its index, or the continuation itself."""
        ...


def load_lm_eval(name: str) -> LabelledSet:
    """A task of lm-eval by its name there.

    Raises:
        UnsupportedError: if the package is not installed, its data cannot be had, or the task is of another kind.
        UnknownNameError: if lm-eval has no task of that name.
    """
    try:
        module = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise UnsupportedError(
            f"the task {NAME}{name} is one of the lm-eval package, which is not installed ({error}). "
            "Run: pip install lm-eval. Headscope then takes the task's own prompts, choices and answers, which lm-eval "
            "downloads; the data sets that Headscope makes itself need neither."
        ) from error
    manager: Any = module.TaskManager()
    if name not in manager.all_tasks:
        near = [task for task in manager.all_tasks if task[:1] == name[:1]][:40]  # it has thousands
        raise UnknownNameError.of("lm-eval task", name, near, "lm-eval ls tasks shows them all.")
    try:
        found: Mapping[Any, Any] = module.get_task_dict([name], manager)
    except Exception as error:  # whatever a download can raise
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedError(
            f"lm-eval could not load {name!r} ({type(error).__name__}: {reason}). It downloads its data: check the "
            "network, or use one of the data sets that Headscope makes itself."
        ) from error
    task = found.get(name)
    if task is None or isinstance(task, Mapping):
        raise UnsupportedError(f"{name!r} is a group of lm-eval tasks: name one of its tasks.")
    return from_lm_eval(cast(LmEvalTask, task), name)


def from_lm_eval(task: LmEvalTask, name: str) -> LabelledSet:
    """The documents of a multiple-choice task as a `LabelledSet` of kind "choice".

    The text of an item is the task's own prompt, its options the task's own choices (blanks around both are dropped:
    an answer follows after one space), its group the document. Documents are those of the test split if their answers
    are given, else of the validation or the training split; those with another number of choices than most are left
    out, and so is what comes twice. Labels are letters by position and need not be balanced.

    Args:
        task: a task object of lm-eval.
        name: its name.

    Raises:
        UnsupportedError: if the task is no multiple choice over continuations, or no split has answers.
    """
    if str(task.OUTPUT_TYPE) != "multiple_choice":
        raise UnsupportedError(
            f"{NAME}{name} is of type {task.OUTPUT_TYPE!r}; only tasks of type 'multiple_choice' can be used."
        )
    items = next((found for found in (_items(task, name, split) for split in _SPLITS) if found), ())
    if not items:
        raise UnsupportedError(f"no split of {NAME}{name} has documents with answers.")
    usual = Counter(len(item.options) for item in items).most_common(1)[0][0]
    items = tuple(item for item in items if len(item.options) == usual)
    return LabelledSet(
        name=f"{NAME}{name}",
        title=f"{name} (lm-eval)",
        kind="choice",
        labels=tuple(chr(ord("A") + index) for index in range(usual)),
        template="{text}",
        source=f"the task {name} of lm-eval (EleutherAI language model evaluation harness)",
        items=items,
    )


def _items(task: LmEvalTask, name: str, split: str) -> tuple[LabelledItem, ...]:
    if not getattr(task, f"has_{split}_docs")():
        return ()
    docs = cast(Callable[[], Iterable[Any] | None], getattr(task, f"{split}_docs"))() or ()
    found = (_item(task, name, doc, f"{split} {number}") for number, doc in enumerate(docs))
    return tuple({(item.text, item.options): item for item in found if item is not None}.values())


def _item(task: LmEvalTask, name: str, doc: Any, group: str) -> LabelledItem | None:
    """One document; None if its answer is not given."""
    text, choices, target = task.doc_to_text(doc), list(task.doc_to_choice(doc)), task.doc_to_target(doc)
    if not isinstance(text, str) or (isinstance(target, Sequence) and not isinstance(target, str)):
        raise UnsupportedError(
            f"{NAME}{name} has several prompts or several right answers per document, which cannot be used here."
        )
    label = _label(choices, target)
    if label is None:
        return None
    options = tuple(str(choice).strip() for choice in choices)
    if not text.strip() or len(set(options)) < len(options) or not all(options):
        raise TaskError(f"a document of {NAME}{name} has an empty prompt or choices that are empty or equal: {doc}")
    return LabelledItem(text.rstrip(), label, options, group)


def _label(choices: list[Any], target: Any) -> int | None:
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    if isinstance(target, str) and target.strip().lstrip("-").isdigit():
        target = int(target)
    return target if isinstance(target, int) and 0 <= target < len(choices) else None
