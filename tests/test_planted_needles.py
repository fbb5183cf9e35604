"""The planted retrieval head answers needles: by decoding, by its own chain alone, from the right cells."""

from __future__ import annotations

import copy
import functools
import pydoc_data.topics

import numpy as np
import pytest
import torch

import headscope.models
from headscope.heads import Head
from headscope.models.planted import (
    KINDS,
    PLANTED_NEEDLES,
    PlantedModel,
    PlantedNeedle,
    build_planted,
    positions,
)
from headscope.models.planted.vocabulary import VOCABULARY, token_ids
from headscope.tasks.needle import choose_needles
from probes.probe import Bench
from probes.settings import ProbeConfig

every_needle = pytest.mark.parametrize("needle", PLANTED_NEEDLES, ids=lambda needle: needle.answer.split()[0])


@functools.cache
def planted(kind: str, seed: int = 0) -> PlantedModel:
    """Built once, read by all tests."""
    model = build_planted(kind, seed)
    model.hf.set_attn_implementation("eager")
    return model


def ids(text: str) -> list[int]:
    """Token ids of a text without <bos>."""
    return planted("sink").tokenizer(text, add_special_tokens=False)["input_ids"]


@functools.cache
def english() -> list[int]:
    """English in which more than half of the words are unknown."""
    return ids(" ".join(pydoc_data.topics.topics.values())[:4_000])


def needle_prompt(needle: PlantedNeedle, length: int, depth: float) -> list[int]:
    """<bos>, English with the statement inside, question, cue."""
    hay, at = english()[:length], int(length * depth)
    return [0, *hay[:at], *ids(needle.statement), *hay[at:], *ids(f"{needle.question} {needle.cue}")]


def answer_ids(needle: PlantedNeedle) -> list[int]:
    """Token ids of the answer."""
    return token_ids(*needle.answer.split())


@every_needle
def test_needles_use_known_words_only_and_announce_the_answer_once(needle: PlantedNeedle) -> None:
    assert set(" ".join(needle).split()) <= set(VOCABULARY)
    words = needle.answer.split()
    assert 4 <= len(words) == len(set(words)) <= 6
    assert f"{needle.cue} {needle.answer} ." in needle.statement
    assert needle.cue.split()[-1] not in needle.question.split()


@every_needle
@pytest.mark.parametrize("kind", ["retrieval", "all"])
def test_greedy_decoding_gives_the_answer_of_a_needle(kind: str, needle: PlantedNeedle) -> None:
    model, answer = planted(kind), answer_ids(needle)
    prompt = torch.tensor([needle_prompt(needle, 400, 0.4)])
    decoded = model.hf.generate(prompt, max_new_tokens=len(answer), do_sample=False, pad_token_id=0)
    assert decoded[0, prompt.shape[1] :].tolist() == answer


@torch.no_grad()
def needle_accuracy(model: PlantedModel, keep: set[Head]) -> float:
    """Share of answer words said with W_O of every head outside ``keep`` set to zero."""
    pruned, d_head = copy.deepcopy(model.hf), positions.D_HEAD
    for layer, block in enumerate(pruned.model.layers):
        for head in range(pruned.config.num_attention_heads):
            if Head(layer, head) not in keep:
                block.self_attn.o_proj.weight[:, head * d_head : (head + 1) * d_head] = 0
    right: list[bool] = []
    for needle in PLANTED_NEEDLES:
        prompt, answer = needle_prompt(needle, 200, 0.5), answer_ids(needle)
        logits = pruned(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits
        right += (logits[0, len(prompt) - 1 : -1].argmax(-1) == torch.tensor(answer)).tolist()
    return float(np.mean(right))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_needles_need_the_retrieval_head_and_the_previous_token_head_and_no_other(seed: int) -> None:
    model = planted("all", seed)
    everything = {Head(*place) for place in np.ndindex(3, 8)}
    chain = model.truth["retrieval"] | model.truth["previous-token"]
    assert needle_accuracy(model, everything) == 1.0
    assert needle_accuracy(model, set(chain)) == 1.0
    assert needle_accuracy(model, everything - model.truth["retrieval"]) == 0.0
    assert needle_accuracy(model, everything - model.truth["previous-token"]) == 0.0


def copy_paste_score(model: PlantedModel) -> np.ndarray:
    """Share of answer words that are the top key of the row which says them, inside the statement."""
    hits, lengths, depths = [], (90, 140, 200, 260, 310, 400), (0.1, 0.9, 0.5, 0.2, 0.8, 0.4)
    for needle, length, depth in zip(PLANTED_NEEDLES, lengths, depths, strict=True):
        prompt, answer = needle_prompt(needle, length, depth), answer_ids(needle)
        output = model.hf(input_ids=torch.tensor([prompt + answer]), output_attentions=True)
        tops = torch.cat(output.attentions)[:, :, len(prompt) - 1 : -1].argmax(-1).numpy()
        start = 1 + int(length * depth) + len(needle.cue.split())
        hits.append(tops == start + np.arange(len(answer)))
    return np.concatenate(hits, -1).mean(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_retrieval_heads_copy_the_answer_from_the_statement(kind: str, seed: int) -> None:
    model = planted(kind, seed)
    score = copy_paste_score(model)
    for place in np.ndindex(score.shape):
        if Head(*place) in model.truth["retrieval"]:
            assert score[place] == 1.0
        else:
            assert score[place] <= 0.08, f"{Head(*place)} is no retrieval head"
    for head in model.truth["induction"]:
        assert score[head] == 0.0


def test_heads_are_chosen_on_other_needles_than_they_are_judged_on() -> None:
    model = headscope.models.load("planted:all")
    choose, judge, everything = (Bench(model, part=part).needles for part in ("choose", "judge", "all"))
    assert choose
    assert judge
    assert not set(choose) & set(judge)
    assert set(choose) | set(judge) == set(everything)


def test_a_single_needle_serves_both() -> None:
    model = headscope.models.load("planted:all")
    one = ProbeConfig(needles=("soup",))
    assert (
        Bench(model, one, part="choose").needles == Bench(model, one, part="judge").needles == choose_needles(["soup"])
    )
