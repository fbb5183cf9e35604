"""Few-shot prompts and their scores, against a twin that runs every answer alone and without padding."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headscope import attention
from headscope.errors import TaskError
from headscope.models.bridged import BridgedModel
from headscope.tasks.in_context import Answer, InContextBatch, build_in_context
from headscope.tasks.in_context_scores import label_scores, margins, predict
from headscope.tasks.labelled import LabelledItem, LabelledSet, split
from headscope.tasks.labelled_catalog import LABELLED, labelled_set

SHOTS = 3
CASES = [
    ("words", "sentiment", "text"),
    ("words", "question-type", "text"),
    ("words", "commonsense", "text"),
    ("words", "commonsense", "letter"),
    ("letters", "sentiment", "text"),
    ("letters", "commonsense", "text"),
]


def random_model(pieces: list[str], pattern: str, name: str) -> BridgedModel:
    """A small random Llama whose tokens are the pieces of all texts that the pattern finds."""
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(["<bos>", "<unk>", *pieces]))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex(pattern), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", unk_token="<unk>")
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=1024, **sizes))
        for weight in plain.parameters():
            weight.data.normal_(1.0 if weight.ndim == 1 else 0.0, 0.3)
    return BridgedModel(plain, tokenizer, name=name)


@pytest.fixture(scope="module")
def models() -> dict[str, BridgedModel]:
    """By tokenizer: a token is a word with the blank before it (labels are single tokens), or one character."""
    sets = [labelled_set(name) for name in LABELLED]
    texts = [item.text + " " + " ".join(item.options) for one in sets for item in one.items]
    text = "\n".join([*texts, *(f"{one.template} {' '.join(one.labels)}" for one in sets)])
    spaced = " ".join(["", *"ABCD"]) + "\nA.\nB.\nC.\nD."
    patterns = {"words": r" ?\w+|[^\w]", "letters": r"[\s\S]"}
    return {
        name: random_model(sorted({*re.findall(pattern, text + spaced)}), pattern, name)
        for name, pattern in patterns.items()
    }


def built(model: BridgedModel, name: str, answer: Answer, n: int = 6, seed: int = 0, **options: Any) -> InContextBatch:
    made = labelled_set(name)
    parts = split(made, select=6, test=n, shots=SHOTS, seed=1)
    return build_in_context(
        model,
        made,
        parts.test,
        demonstrations=parts.demonstrations,
        shots=SHOTS,
        generator=torch.Generator().manual_seed(seed),
        answer=answer,
        **options,
    )


def answers_of(made: LabelledSet, item: LabelledItem, answer: Answer) -> tuple[str, ...]:
    return item.options if item.options and answer == "text" else made.labels


def alone(model: BridgedModel, prompt: str, answer: str, per_token: bool) -> float:
    """The score of one answer: one unpadded run, token after token."""
    before, whole = model.encode(prompt), model.encode(f"{prompt} {answer}")
    assert whole[: len(before)] == before
    spoken = model.logits(torch.tensor([whole]))[0].double().log_softmax(-1)
    each = [float(spoken[at - 1, whole[at]]) for at in range(len(before), len(whole))]
    return sum(each) / (len(each) if per_token else 1)


@pytest.mark.parametrize(("model_name", "name", "answer"), CASES)
def test_scores_equal_those_of_each_answer_run_alone(
    models: dict[str, BridgedModel], model_name: str, name: str, answer: Answer
) -> None:
    model, made = models[model_name], labelled_set(name)
    batch = built(model, name, answer)
    assert len(set(batch.lengths.tolist())) > 1  # so that some row is padded
    test = split(made, select=6, test=6, shots=SHOTS, seed=1).test
    per_token = (name, answer) == ("commonsense", "text")
    expected = [
        [alone(model, prompt, one, per_token) for one in answers_of(made, item, answer)]
        for prompt, item in zip(batch.prompts, test, strict=True)
    ]
    scores = label_scores(model, batch)
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.double), atol=1e-4, rtol=1e-4)
    assert predict(model, batch, batch_size=4).tolist() == np.argmax(expected, -1).tolist()
    assert batch.labels.tolist() == [item.label for item in test]
    assert batch.groups == tuple(item.group for item in test)


def test_an_item_has_one_row_where_its_answers_are_single_tokens(models: dict[str, BridgedModel]) -> None:
    one = built(models["words"], "sentiment", "text")
    several = built(models["letters"], "sentiment", "text")
    assert (len(one.tokens), len(several.tokens)) == (6, 12)
    logits = models["words"].logits(one.tokens)[torch.arange(6), one.lengths - 1]
    labels = [models["words"].encode(f" {label}")[0] for label in ("great", "terrible")]
    assert predict(models["words"], one).tolist() == logits[:, labels].argmax(-1).tolist()


@pytest.mark.parametrize("answer", ["text", "letter"])
def test_padding_and_company_change_nothing(models: dict[str, BridgedModel], answer: Answer) -> None:
    model = models["letters" if answer == "text" else "words"]
    batch = built(model, "commonsense", answer)
    together = label_scores(model, batch)
    for index in range(len(batch)):
        torch.testing.assert_close(label_scores(model, batch, [index])[0], together[index], atol=1e-5, rtol=1e-4)
    wider = torch.nn.functional.pad(batch.tokens, (0, 5), value=2)
    torch.testing.assert_close(label_scores(model, dataclasses.replace(batch, tokens=wider)), together)
    order = [3, 1, 3]
    torch.testing.assert_close(label_scores(model, batch, order), together[order], atol=1e-5, rtol=1e-4)


def test_the_prompt_is_demonstrations_and_then_the_item(models: dict[str, BridgedModel]) -> None:
    made = labelled_set("sentiment")
    parts = split(made, select=6, test=6, shots=SHOTS, seed=1)
    batch = built(models["words"], "sentiment", "text")
    for index, item in enumerate(parts.test):
        blocks = batch.prompts[index].split("\n\n")
        assert blocks[-1] == f"{item.text} Overall, it was"
        written = {f"{made.template.format(text=one.text)} {made.labels[one.label]}" for one in parts.demonstrations}
        assert set(blocks[:-1]) <= written
        assert len(set(blocks[:-1])) == SHOTS
        tokens = batch.tokens[index, : batch.lengths[index]].tolist()
        assert tokens == models["words"].encode(batch.prompts[index])
        assert "<unk>" not in models["words"].decode(tokens)


def test_options_are_listed_where_a_letter_answers(models: dict[str, BridgedModel]) -> None:
    item = split(labelled_set("commonsense"), select=6, test=6, shots=SHOTS, seed=1).test[0]
    listed = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", item.options, strict=True))
    prompt = built(models["words"], "commonsense", "letter").prompts[0]
    assert prompt.endswith(f"\n\nQuestion: {item.text}{listed}\nAnswer:")
    assert listed not in built(models["words"], "commonsense", "text").prompts[0]


def test_demonstrations_are_balanced_and_follow_the_generator(models: dict[str, BridgedModel]) -> None:
    first, again, other = (built(models["words"], "sentiment", "text", seed=seed) for seed in (0, 0, 1))
    assert first.prompts == again.prompts != other.prompts
    for prompt in first.prompts:
        shown = Counter(block.split()[-1] for block in prompt.split("\n\n")[:-1])
        assert sorted(shown.values()) == [1, 2]
    assert len({prompt.rpartition("\n\n")[0] for prompt in first.prompts}) > 1


def test_a_start_token_comes_first_if_asked_for(models: dict[str, BridgedModel]) -> None:
    model = models["words"]
    assert (built(model, "topic", "text", bos=True).tokens[:, 0] == model.bos).all()
    assert (built(model, "topic", "text").tokens[:, 0] != model.bos).all()


def test_a_margin_is_positive_exactly_where_the_prediction_is_right(models: dict[str, BridgedModel]) -> None:
    batch = built(models["words"], "topic", "text", n=16)
    lead = margins(models["words"], batch)
    assert ((lead > 0).numpy() == (predict(models["words"], batch) == batch.labels.numpy())).all()
    assert 0 < int((lead > 0).sum()) < len(batch)
    torch.testing.assert_close(margins(models["words"], batch, [5, 2]), lead[[5, 2]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_name", ["words", "letters"])
def test_the_gradient_of_the_margin_is_its_slope(models: dict[str, BridgedModel], model_name: str) -> None:
    model = models[model_name]
    batch = built(model, "sentiment", "text")

    def margin(gate: torch.Tensor) -> torch.Tensor:
        with attention.tap(model.plain, editor=lambda call: call.z * gate[call.layer][:, None, None]):
            return margins(model, batch).mean()

    gate = torch.ones(2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(margin(gate), gate)
    step = 1e-2
    with torch.no_grad():
        for head in ((0, 1), (1, 0)):
            moved = torch.zeros(2, 2)
            moved[head] = step
            found = (margin(gate + moved) - margin(gate - moved)) / (2 * step)
            torch.testing.assert_close(slope[head], found, atol=2e-3, rtol=2e-2)
    assert slope.abs().max() > 1e-3


def test_items_with_fewer_options_never_choose_a_missing_one(models: dict[str, BridgedModel]) -> None:
    made = labelled_set("commonsense")
    full, short = made.items[0], dataclasses.replace(made.items[1], options=made.items[1].options[:2], label=1)
    batch = build_in_context(models["words"], made, [full, short], generator=torch.Generator())
    scores = label_scores(models["words"], batch)
    assert scores.isinf().tolist() == [[False] * 4, [False, False, True, True]]
    assert torch.isfinite(margins(models["words"], batch)).all()


@pytest.mark.parametrize(
    ("shots", "pool", "n", "words"),
    [
        (8, 6, 4, "8 shots of 'sentiment' need 4 demonstrations of each of 2 labels; the pool has 3"),
        (2, 0, 4, "the pool has 0 of the rarest"),
        (-1, 6, 4, "Use 0 to 6 shots"),
        (0, 0, 0, "no items"),
    ],
    ids=["too many shots", "no pool", "negative", "no items"],
)
def test_impossible_requests_are_refused(
    models: dict[str, BridgedModel], shots: int, pool: int, n: int, words: str
) -> None:
    made = labelled_set("sentiment")
    shown = [item for label in (0, 1) for item in [one for one in made.items if one.label == label][: pool // 2]]
    with pytest.raises(TaskError, match=words):
        build_in_context(
            models["words"], made, made.items[:n], demonstrations=shown, shots=shots, generator=torch.Generator()
        )


def test_a_tokenizer_without_the_words_and_a_short_context_are_refused(
    tiny: Any, models: dict[str, BridgedModel]
) -> None:
    made = labelled_set("sentiment")
    with pytest.raises(TaskError, match="cannot tell the answers of 'sentiment' apart"):
        build_in_context(tiny("llama"), made, made.items[:1], generator=torch.Generator())
    twice = dataclasses.replace(made, labels=("good", "good"))
    with pytest.raises(TaskError, match="cannot tell"):
        build_in_context(models["letters"], twice, made.items[:1], generator=torch.Generator())
    parts = split(made, select=0, test=2, shots=14)
    with pytest.raises(TaskError, match=r"the context of 'letters' 1024: use fewer shots"):
        build_in_context(
            models["letters"],
            made,
            parts.test,
            demonstrations=parts.demonstrations,
            shots=14,
            generator=torch.Generator(),
        )


def test_smollm2_knows_everyday_facts(smollm2: BridgedModel) -> None:
    made = labelled_set("commonsense")
    items = split(made, select=0, test=12, shots=0).test
    batch = build_in_context(smollm2, made, items, generator=torch.Generator())
    assert (predict(smollm2, batch) == batch.labels.numpy()).mean() > 0.5  # chance: 0.25
