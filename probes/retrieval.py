"""Retrieval heads: while the model copies an answer out of a long text, they look at the token being copied.

Definition (Wu et al.): greedy decoding from a needle prompt. At the step that produces token w, a head *copy-pastes* w
iff its top-1 key j lies inside the answer's span in the needle and the token at j is w. The instance's score is the
share of the answer's tokens that the head copy-pastes; the head's score is the mean over instances that count, those
whose generated answer recalls more than half of the answer's words (ROUGE-1 recall > 50). Retrieval head: score >= 0.1.
Activation frequency: share of counted instances with at least one copy-paste.
Source: Wu et al. 2024 (arXiv 2404.15574), section 2; code: nightdessert/Retrieval_Head, retrieval_head_detection.py.
Differences from the released code: the span is exact (theirs is found by token overlap and can be off by several
tokens); a needle token produced twice counts once, as in the paper's formula (their sum can exceed 1); the prompt ends
with the first words of the answer's sentence, so that a small base model copies instead of paraphrasing; at most four
tokens more than the longest answer are generated (theirs: 50), up to a line break or the end-of-text token.
A model that answers no prompt has no retrieval score: NaN, with n = 0, for every head.
Pitfalls: top-1 only, so a head that splits its attention scores 0. Query heads; with grouped keys use the KV view.
An induction head is a retrieval head on such prompts: look at the overlap of the two classes.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.heads import ScoreDefinition
from headscope.readings import greedy_top_keys
from headscope.tasks import NeedleBatch, build_needles
from probes.probe import Bench, OnStep, Probe, Samples, batches

_SOURCE = "Wu et al. 2024, arXiv 2404.15574, section 2"
_RECALL, _SLACK = 0.5, 4

RETRIEVAL = ScoreDefinition(
    name="retrieval",
    title="Retrieval",
    unit="share of answer tokens",
    formula="|answer tokens w produced while top-1 key j is in the answer's span and x_j = w| / |answer tokens|",
    source=_SOURCE,
    reading="0 to 1; 1 means every answer token is looked at while it is produced",
    probe="retrieval",
    threshold=0.1,
    head_class="retrieval",
    caveats="Query heads; greedy decoding; only instances with ROUGE-1 recall above 50 count (see n). Instances share "
    "a few needles in other places and texts: the interval does not speak for other needles.",
)
RETRIEVAL_ACTIVATION = ScoreDefinition(
    name="retrieval_activation",
    title="Retrieval activation",
    unit="share of instances",
    formula="share of counted instances in which the head copy-pastes at least one answer token",
    source=_SOURCE,
    reading="0 to 1; 1 means the head takes part in every retrieval",
    probe="retrieval",
)


def rouge1_recall(answer: str, reference: str) -> float:
    """Share of the reference's words (with multiplicity) that the answer holds; case and punctuation ignored."""
    found, wanted = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, reference))
    return sum((found & wanted).values()) / max(sum(wanted.values()), 1)


def copy_pasted(
    task: NeedleBatch,
    index: int,
    generated: Int[Tensor, " step"],
    top: Int[Tensor, "step layer head"],
) -> Float[Tensor, "layer head"]:
    """Share of the answer's tokens that each head copy-pastes in one instance."""
    size, first = int(task.answer_lengths[index]), int(task.spans[index])
    prompt = task.prompts[index].to(top.device)
    inside = (top >= first) & (top < first + size)
    looked_at = prompt[top.clamp_max(len(prompt) - 1)]
    hit = inside & (looked_at == generated[:, None, None])
    copied = torch.zeros(size, *top.shape[1:], device=top.device)
    copied.scatter_reduce_(0, (top - first).clamp(0, size - 1), hit.float(), "amax")
    return copied.mean(0)


def _instances(bench: Bench, length: int) -> NeedleBatch:
    return build_needles(
        bench.model,
        bench.haystack,
        length=length,
        n=bench.config.needle_examples,
        generator=bench.generator(f"needle {length}"),
        needles=bench.needles,
        depths=bench.config.depths,
    )


def _answer_end(bench: Bench, generated: list[int]) -> int:
    """Number of tokens before the answer ends: at a line break or the end-of-text token."""
    stops = (index for index, token in enumerate(generated) if _stops(bench, token))
    return next(stops, len(generated))


def _stops(bench: Bench, token: int) -> bool:
    return token == bench.model.tokenizer.eos_token_id or "\n" in bench.model.decode([token])


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    model, config = bench.model, bench.config
    tasks = [_instances(bench, length) for length in bench.lengths]  # all first: a bad length fails at once
    total, values = config.needle_examples * len(tasks), list[Float[np.ndarray, "layer head"]]()
    for task in tasks:
        # of the whole task: no score may depend on who shares its batch
        steps = min(int(task.answer_lengths.max()) + _SLACK, model.shape.n_ctx - task.prompts.shape[1])
        for where, prompts in batches(task.prompts):
            generated, top = greedy_top_keys(model, prompts, steps, method=config.method)
            for local, index in enumerate(range(where.start, where.start + len(prompts))):
                end = _answer_end(bench, generated[local].tolist())
                score = copy_pasted(task, index, generated[local, :end], top[local, :end]).cpu().numpy()
                text = model.decode(generated[local, :end].tolist())
                counted = rouge1_recall(text, task.texts[index]) > _RECALL
                values.append(score if counted else np.full_like(score, np.nan))
            on_step(len(values), total)
    samples = np.stack(values)
    active = np.where(np.isnan(samples), np.nan, samples > 0).astype(np.float32)
    return {"retrieval": samples, "retrieval_activation": active}


PROBE = Probe(
    "retrieval",
    "does the head look at the answer token while it is being copied",
    (RETRIEVAL, RETRIEVAL_ACTIVATION),
    _measure,
)
