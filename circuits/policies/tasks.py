"""What policies are judged on: one form for all tasks, from text that no head was chosen on."""

from __future__ import annotations

import torch

from headscope.errors import TaskError, UnknownNameError
from headscope.tasks import build_needles, build_prose, build_repeated
from headscope.tasks.answers import AnswerBatch, needle_answers, prose_answers, repeated_answers
from headscope.tasks.domains import domain_text
from headscope.tasks.multi_needle import build_multi_needle
from headscope.tasks.variable_tracking import build_variable_tracking
from probes.probe import Bench

TEXTS = ("text", "code", "opinions")
TASKS = ("needle", "multi-needle", "variable-tracking", "repeated", *TEXTS)


def build_task(bench: Bench, task: str, *, length: int, n: int) -> AnswerBatch:
    """``n`` prompts of a task, of exactly ``length`` tokens; the same for the same seed, task and length.

    needle: one needle of the bench's, depths in turn. multi-needle: one of four asked for. variable-tracking: one hop.
    repeated: random tokens and their copy, half of the length each; the loss on the copy. text, code, opinions: the
    loss on passages.

    Args:
        bench: the model, its haystack and needles; tasks use the part of the haystack that no head was scored on.
        task: one of `TASKS`.
        length: tokens of a prompt, the answer not counted.
        n: prompts.

    Raises:
        UnknownNameError: for an unknown task.
        TaskError: if the model's context or words, or the text, do not suffice.
    """
    generator = bench.generator(f"policy {task} {length}")
    if task == "needle":
        depths, needles = bench.config.depths, bench.needles
        return needle_answers(
            build_needles(
                bench.model, bench.held_out, length=length, n=n, generator=generator, needles=needles, depths=depths
            )
        )
    if task == "multi-needle":
        return build_multi_needle(bench.model, bench.held_out, length=length, n=n, generator=generator)
    if task == "variable-tracking":
        return build_variable_tracking(bench.model, bench.held_out, length=length, n=n, generator=generator)
    if task == "repeated":
        return _repeated(bench, length=length, n=n, generator=generator)
    if task in TEXTS:
        text = bench.held_out if task == "text" else domain_text(task)
        return prose_answers(build_prose(bench.model, text, n=n, length=length, generator=generator))
    raise UnknownNameError.of("task", task, TASKS)


def _repeated(bench: Bench, *, length: int, n: int, generator: torch.Generator) -> AnswerBatch:
    start = 0 if bench.model.bos is None else 1
    if length > bench.model.shape.n_ctx:
        raise TaskError(
            f"{length} tokens are beyond the context of {bench.model.name!r} ({bench.model.shape.n_ctx} tokens)."
        )
    task = build_repeated(bench.model, n=n, period=(length - start) // 2, copies=2, generator=generator)
    return repeated_answers(task)
