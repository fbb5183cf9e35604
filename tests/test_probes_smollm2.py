"""The embedded model: the heads that other tools find in it, exact spans in its tokens, and flash against dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.tasks import NEEDLES, build_needles, build_prose, build_repeated, load_haystack
from headscope.tasks.repeated import ordinary_tokens
from probes import PROBES, ProbeConfig
from probes.census import measure
from probes.probe import Bench, Samples
from probes.retrieval import _answer_end

FEW = ProbeConfig(repeated_examples=3, sink_examples=4, lengths=(128,), needle_examples=4)


def measured(model: BridgedModel, probe: str, **changes: object) -> Samples:
    """The value of every example, at small sizes."""
    return measure(Bench(model, FEW.model_copy(update=changes)), PROBES[probe])[1]


def strongest(samples: np.ndarray, count: int) -> set[Head]:
    """The heads with the largest means."""
    means = samples.mean(0)
    return {Head(int(i) // means.shape[1], int(i) % means.shape[1]) for i in np.argsort(-means, axis=None)[:count]}


@pytest.fixture(scope="module")
def induction(smollm2: BridgedModel) -> Samples:
    """The induction samples by the flash reading."""
    return measured(smollm2, "induction")


def test_the_induction_heads_are_the_ones_that_transformer_lens_finds(induction: Samples) -> None:
    assert strongest(induction["induction"], 4) == {Head(18, 6), Head(17, 4), Head(17, 5), Head(17, 3)}
    assert induction["induction"].mean(0)[18, 6] > 0.8


def test_the_previous_token_heads_are_the_ones_that_transformer_lens_finds(smollm2: BridgedModel) -> None:
    scores = probes.score(smollm2, "previous_token", FEW)
    assert scores.top(2)["label"].tolist() == ["L16H0", "L11H1"]
    assert scores.top(2)["kv_head"].tolist() == [0, 0]
    assert (scores.low <= scores.values).all()
    assert (scores.values <= scores.high).all()


def test_the_strongest_induction_head_is_the_strongest_retrieval_head(smollm2: BridgedModel) -> None:
    scores = probes.score(smollm2, "retrieval", FEW)
    assert scores.ranked()[0] == Head(18, 6)
    assert (scores.n == 4).all(), "every needle is answered"
    assert ((scores.values >= 0) & (scores.values <= 1)).all()


def test_induction_and_sink_are_the_same_flash_and_dense(smollm2: BridgedModel, induction: Samples) -> None:
    sink = measured(smollm2, "sink")
    dense = {**measured(smollm2, "induction", method="dense"), **measured(smollm2, "sink", method="dense")}
    for name, samples in {**induction, **sink}.items():
        np.testing.assert_allclose(samples, dense[name], atol=1e-4, err_msg=name)
    assert sink["sink"].mean(0)[18, 8] > 0.95


def test_the_transformer_lens_columns_equal_detect_head(
    smollm2: BridgedModel, induction: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens.head_detector import detect_head

    bench = Bench(smollm2, FEW)
    task = build_repeated(smollm2, n=3, period=25, copies=4, generator=bench.generator("repeated tokens"))
    samples = {
        "induction": induction,
        **{name: measured(smollm2, name) for name in ("previous_token", "duplicate_token")},
    }
    with torch.no_grad():
        _, cache = smollm2.bridge.run_with_cache(
            task.tokens[:1], remove_batch_dim=True, names_filter=lambda name: name.endswith("attn.hook_pattern")
        )
    monkeypatch.setattr(smollm2.bridge, "to_tokens", lambda tokens: tokens)  # it wants text; these have none
    for name, of_probe in samples.items():
        theirs = detect_head(smollm2.bridge, task.tokens[:1], f"{name}_head", cache=cache)
        np.testing.assert_allclose(of_probe[f"{name}_tl"][0], theirs.numpy(), atol=1e-4)


def test_the_bridge_computes_the_logits_of_the_plain_model(smollm2: BridgedModel) -> None:
    tokens = torch.tensor([smollm2.encode("When Mary and John went to the store, John gave a drink to", bos=True)])
    plain, bridged = smollm2.logits(tokens), smollm2.logits(tokens, path="bridge")
    torch.testing.assert_close(bridged, plain, atol=1e-3, rtol=0)
    assert smollm2.decode([int(plain[0, -1].argmax())]) == " Mary"


def test_answers_stand_exactly_in_their_spans_in_prompts_of_exact_length(smollm2: BridgedModel) -> None:
    text = load_haystack()[:60_000]
    task = build_needles(smollm2, text, length=300, n=16, generator=torch.Generator().manual_seed(0))
    assert task.prompts.shape == (16, 300)
    assert {name for name in task.names} == {needle.name for needle in NEEDLES}
    for row, first, size, answer in zip(
        task.prompts.tolist(), task.spans.tolist(), task.answer_lengths.tolist(), task.texts, strict=True
    ):
        assert row[0] == smollm2.bos
        assert smollm2.decode(row[first : first + size]) == f" {answer}"
        whole = smollm2.decode(row)
        assert whole.count(answer) == 1
        needle = next(needle for needle in NEEDLES if needle.answer == answer)
        assert f" {needle.cue} {answer}{needle.end}" in whole
        assert whole.endswith(f"Question: {needle.question}\nAnswer: {needle.cue}")


def test_an_answer_ends_at_a_line_break_or_the_end_of_text(smollm2: BridgedModel) -> None:
    bench, answer = Bench(smollm2, FEW), smollm2.encode(" crushed walnut shells, salt")
    assert _answer_end(bench, answer) == len(answer)
    assert _answer_end(bench, [*answer, *smollm2.encode("\n\nQuestion: What")]) == len(answer)
    assert _answer_end(bench, [*answer, smollm2.tokenizer.eos_token_id, *answer]) == len(answer)


def test_random_tokens_are_drawn_from_all_but_the_special_ones(smollm2: BridgedModel) -> None:
    control = set(range(17))  # <|endoftext|>, <|im_start|> ... <repo_name>, <jupyter_code> ...
    assert {smollm2.decode([token])[0] for token in control} == {"<"}
    assert set(ordinary_tokens(smollm2).tolist()) == set(range(49152)) - control


def test_passages_are_of_the_text(smollm2: BridgedModel) -> None:
    text = load_haystack()
    passages = build_prose(smollm2, text, n=5, length=64, generator=torch.Generator().manual_seed(0))
    assert (passages[:, 0] == smollm2.bos).all()
    for row in passages.tolist():
        assert smollm2.decode(row[1:]) in text
