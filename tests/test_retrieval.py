"""The retrieval score: recall, copy-paste by hand, and decoding again in plain loops without a cache."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.models.bridged import BridgedModel
from headscope.readings import Method, greedy_top_keys
from headscope.tasks import NeedleBatch, build_needles
from probes import PROBES, ProbeConfig
from probes.census import measure
from probes.probe import Bench, Samples
from probes.retrieval import copy_pasted, rouge1_recall


@pytest.mark.parametrize(
    ("answer", "reference", "recall"),
    [
        ("eat a sandwich", "eat a sandwich", 1.0),
        ("Eat, a SANDWICH!", "eat a sandwich", 1.0),
        ("a sandwich you should eat on a day", "eat a sandwich", 1.0),
        ("sandwich", "eat a sandwich", 1 / 3),
        ("a a a", "eat a sandwich", 1 / 3),
        ("the dog", "the cat and the dog", 2 / 5),
        ("the the dog", "the cat and the dog", 3 / 5),
        ("", "eat a sandwich", 0.0),
        ("eat", "", 0.0),
        ("sandwiches", "sandwich", 0.0),
    ],
)
def test_recall_is_the_share_of_the_references_words_with_multiplicity(
    answer: str, reference: str, recall: float
) -> None:
    assert rouge1_recall(answer, reference) == pytest.approx(recall)


# positions   0  1  2  3  4  5  6  7  8
PROMPT = [0, 7, 5, 6, 5, 9, 7, 5, 3]  # the answer "5 6 5 9" stands at positions 2 to 5
SPAN, SIZE = 2, 4


def pasted(generated: list[int], top: list[int]) -> float:
    """`copy_pasted` of a model with one head."""
    task = NeedleBatch(
        prompts=torch.tensor([PROMPT]),
        answers=torch.tensor([[5, 6, 5, 9]]),
        answer_lengths=torch.tensor([SIZE]),
        spans=torch.tensor([SPAN]),
        depths=(0.5,),
        names=("by hand",),
        texts=("",),
    )
    return float(copy_pasted(task, 0, torch.tensor(generated), torch.tensor(top)[:, None, None]))


@pytest.mark.parametrize(
    ("generated", "top", "score"),
    [
        ([5, 6, 5, 9], [2, 3, 4, 5], 1.0),
        ([5, 6, 5, 9], [2, 3, 4, 8], 0.75),
        ([5, 6, 5, 9], [7, 3, 4, 5], 0.75),  # token 5 at position 7 is right, but outside the span
        ([5, 6, 5, 9], [2, 2, 4, 5], 0.75),  # inside the span, but on another token than was produced
        ([5, 6, 5, 9], [4, 3, 2, 5], 1.0),  # equal tokens are equal, wherever in the span
        ([9, 9, 9, 9], [5, 5, 5, 5], 0.25),  # a token copied four times counts once: never above 1
        ([5, 6, 5, 9, 5, 6, 5, 9], [2, 3, 4, 5] * 2, 1.0),
        ([1, 2, 3, 4], [2, 3, 4, 5], 0.0),
        ([7, 7, 7, 7], [1, 6, 1, 6], 0.0),  # one position before the span, and one behind it
        ([5, 5, 5, 5], [2, 9, 10, 11], 0.25),  # top keys behind the prompt: what was generated itself
    ],
)
def test_a_token_is_copy_pasted_where_the_top_key_holds_it_inside_the_span(
    generated: list[int], top: list[int], score: float
) -> None:
    assert pasted(generated, top) == pytest.approx(score)


@pytest.fixture(scope="module")
def needle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Needles that the planted model answers whole, in part, and not at all (it copies rare words only)."""
    answers = (
        "amber falcon granite willow zephyr",
        "walrus cobalt garden saffron",
        "garden gate song river captain",
        "thistle granite lantern",
    )
    path = tmp_path_factory.mktemp("needles") / "needles.json"
    what = ("keeper", "queen", "captain", "ship")
    entries = [
        {"name": name, "cue": f"the {name} spells", "answer": answer, "question": f"what does the {name} say ?"}
        | {"end": " ."}
        for name, answer in zip(what, answers, strict=True)
    ]
    path.write_text(json.dumps(entries))
    return path


@torch.no_grad()
def decode_naively(plain: Any, prompt: Tensor, steps: int) -> tuple[list[int], list[Tensor]]:
    """Greedy decoding by a whole forward pass a step; the last row's top key of every head at each step."""
    tokens, generated, tops = prompt[None], list[int](), list[Tensor]()
    for _ in range(steps):
        output = plain(input_ids=tokens, output_attentions=True, use_cache=False)
        tops.append(torch.stack([pattern[0, :, -1].argmax(-1) for pattern in output.attentions]))
        generated.append(int(output.logits[0, -1].argmax()))
        tokens = torch.cat([tokens, torch.tensor([[generated[-1]]])], 1)
    return generated, tops


def naive_scores(model: BridgedModel, task: NeedleBatch) -> list[np.ndarray]:
    """The score of every instance, NaN where fewer than half of the answer's words came."""
    plain, found = copy.deepcopy(model.plain), []
    plain.set_attn_implementation("eager")
    steps = max(task.answer_lengths.tolist()) + 4
    for index in range(len(task.prompts)):
        first, size = int(task.spans[index]), int(task.answer_lengths[index])
        prompt, answer = task.prompts[index], set(range(first, first + size))
        generated, tops = decode_naively(plain, prompt, steps)
        words = [model.decode([token]) for token in generated]
        wanted = task.texts[index].split()
        if sum(word in words for word in wanted) / len(wanted) <= 0.5:
            found.append(np.full((model.shape.n_layers, model.shape.n_heads), np.nan))
            continue
        score = np.zeros((model.shape.n_layers, model.shape.n_heads))
        for place in np.ndindex(score.shape):
            hits = {
                int(top[place])
                for token, top in zip(generated, tops, strict=True)
                if int(top[place]) in answer and int(prompt[top[place]]) == token
            }
            score[place] = len(hits) / size
        found.append(score)
    return found


def config_of(needle_file: Path, **changes: Any) -> ProbeConfig:
    """Eight short instances."""
    return ProbeConfig(needle_file=needle_file, lengths=(80, 120), needle_examples=8, depths=(0.2, 0.8), **changes)


@pytest.mark.parametrize("method", ["flash", "dense"])
def test_the_score_equals_naive_greedy_decoding_with_output_attentions(
    planted: Callable[..., BridgedModel], needle_file: Path, method: Method
) -> None:
    model, config = planted("retrieval"), config_of(needle_file, method=method)
    bench = Bench(model, config)
    naive: list[np.ndarray] = []
    for length in config.lengths:
        task = build_needles(
            model,
            bench.haystack,
            length=length,
            n=config.needle_examples,
            generator=bench.generator(f"needle {length}"),
            needles=bench.needles,
            depths=config.depths,
        )
        naive += naive_scores(model, task)
    scores, samples = measure(bench, PROBES["retrieval"])
    np.testing.assert_allclose(samples["retrieval"], np.stack(naive), atol=1e-6)
    counted = [not math.isnan(score[0, 0]) for score in naive]
    assert 4 <= sum(counted) < len(counted), "some instances count and some do not, or nothing was tested"
    assert {round(float(value), 6) for value in np.unique(np.stack(naive)[counted])} > {0.0, 1.0}
    retrieval, activation = scores
    assert (retrieval.n == sum(counted)).all()
    np.testing.assert_allclose(retrieval.values, np.nanmean(naive, 0), atol=1e-6)
    np.testing.assert_allclose(activation.values, np.mean(np.stack(naive)[counted] > 0, 0), atol=1e-6)


def test_an_instances_score_does_not_depend_on_who_shares_its_batch(
    planted: Callable[..., BridgedModel], needle_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_taken: list[int] = []

    def recorded(model: BridgedModel, prompts: Tensor, steps: int, *, method: Method) -> tuple[Tensor, Tensor]:
        steps_taken.append(steps)
        return greedy_top_keys(model, prompts, steps, method=method)

    def run() -> Samples:
        return measure(Bench(planted("retrieval"), config_of(needle_file)), PROBES["retrieval"])[1]

    monkeypatch.setattr("probes.retrieval.greedy_top_keys", recorded)
    together = run()
    monkeypatch.setattr("probes.probe._TOKENS_PER_FORWARD", 1)
    np.testing.assert_array_equal(run()["retrieval"], together["retrieval"])
    assert set(steps_taken) == {5 + 4}, "the longest answer of all and four tokens, in every batch"
    assert len(steps_taken) == 2 + 16


def test_a_model_that_answers_nothing_has_no_score_and_no_retrieval_heads(planted: Callable[..., BridgedModel]) -> None:
    config = ProbeConfig(lengths=(80,), needle_examples=2)
    for scores in measure(Bench(planted("sink"), config), PROBES["retrieval"])[0]:
        assert (scores.n == 0).all()
        assert np.isnan([scores.values, scores.low, scores.high]).all()
        assert scores.members(0.0) == []
