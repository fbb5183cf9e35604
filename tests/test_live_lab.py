"""Every number of a live answer is the one that the same computation gives by hand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.live.clean_text import CleanText, encode, row_of
from app.live.lab import divergence, run_lab
from app.live.named_tokens import choose_pair, find_token
from app.live.random_heads import draw_sets
from app.live.requests import CaptureRequest, LabRequest, ModelChoice
from app.live.results import CaptureResult, LabResult
from app.live.work import Desk
from circuits import Reference, ablate
from headscope.captures import CapturedText
from headscope.errors import ConfigError, HeadIndexError, TaskError, UnknownNameError, UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.tasks import build_prose
from probes.probe import Bench, ProbeConfig

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
CHOICE = ModelChoice(model="planted:all", device="cpu")
TEXT = "the old keeper said that the secret word is amber and the old keeper said"
HEADS = ("L0H1", "L1H2", "L1H5")


def quiet(*_: object) -> None:
    """Says nothing and never stops."""


def answer(model: BridgedModel, *, position: int = -1, **settings: Any) -> LabResult:
    """The answer to a lab request, worked out in this process."""
    asked = LabRequest(choice=CHOICE, position=position, **{"text": TEXT, **settings})
    ids = encode(model, asked)
    clean = CleanText.of(model, ids, row_of(position, len(ids)))
    return run_lab(model, clean, asked, tell=quiet, check=quiet)


def whole_run(model: BridgedModel, heads: tuple[str, ...], how: str = "zero") -> tuple[Tensor, Tensor]:
    """Logits and next-token losses of an ordinary forward pass with the heads ablated."""
    tokens = torch.tensor([model.encode(TEXT, bos=True)])
    with ablate(model, [Head.parse(label) for label in heads], how):
        logits = model.logits(tokens)[0]
    return logits, torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")


@pytest.mark.parametrize("position", [-1, 0, 7])
@pytest.mark.parametrize("how", ["zero", "uniform", "to_bos"])
def test_clean_and_ablated_runs_are_those_of_whole_forward_passes(planted: Planted, how: str, position: int) -> None:
    model = planted("all")
    found = answer(model, heads=HEADS, ablation=how, position=position)
    assert found.ablated is not None
    for outcome, heads in ((found.clean, ()), (found.ablated, HEADS)):
        logits, loss = whole_run(model, heads, how)
        np.testing.assert_allclose(outcome.logits, logits[position], atol=1e-4)
        np.testing.assert_allclose(outcome.loss, loss, atol=1e-4)
        assert outcome.logit_diff == pytest.approx(
            float(logits[position, found.a.id] - logits[position, found.b.id]), abs=1e-4
        )
    assert np.abs(found.ablated.loss - found.clean.loss).max() > 0.01


def test_the_divergence_is_that_of_the_definition() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    wanted = float((p * (p / q).log()).sum())
    assert divergence(p.log() + 3, q.log() - 1) == pytest.approx(wanted, abs=1e-7)
    assert divergence(p.log(), p.log() + 5) == pytest.approx(0, abs=1e-9)


def test_without_heads_there_is_one_run(planted: Planted) -> None:
    found = answer(planted("all"))
    assert (found.ablated, found.kl, found.random_sets, found.refusals) == (None, None, (), ())
    assert [token.id for token in found.tokens[:2]] == [found.a.id, found.b.id]
    assert found.n_tokens == len(found.clean.loss) + 1


def test_a_named_token_is_a_and_the_likeliest_other_is_b(planted: Planted) -> None:
    model = planted("all")
    first = answer(model).a
    assert answer(model, token_a=first.text).b.id == answer(model).b.id
    assert answer(model, token_a="amber").b == first
    assert answer(model, token_b="amber").a == first


def test_a_token_that_is_several_shows_its_pieces(smollm2: BridgedModel) -> None:
    with pytest.raises(
        ConfigError, match=r"'indescribable' is \d tokens of 'smollm2' \('ind' \+ .*name exactly one"
    ) as caught:
        find_token(smollm2, "indescribable")
    assert "begins with a blank" in str(caught.value)
    assert find_token(smollm2, " Paris") == smollm2.encode(" Paris")[0]
    with pytest.raises(ConfigError, match="A and B are both ' Paris'"):
        choose_pair(smollm2, torch.zeros(smollm2.shape.d_vocab), " Paris", " Paris")


def test_parts_add_up_and_the_lens_ends_in_the_prediction(planted: Planted) -> None:
    found = answer(planted("all"))
    assert found.attribution is not None
    assert found.lens is not None
    assert abs(found.attribution.gap) < 1e-3
    assert found.attribution.real == pytest.approx(found.clean.logit_diff, abs=1e-5)
    assert found.lens.logit_diff[-1] == pytest.approx(found.clean.logit_diff, abs=1e-3)
    assert int(found.lens.top_ids[-1, 0]) == found.a.id
    assert len(found.lens.top_text) == planted("all").shape.n_layers + 1


def test_captures_are_those_of_the_clean_and_of_the_ablated_run(planted: Planted) -> None:
    model = planted("all")
    found = answer(model, heads=("L0H1", "L0H2", "L0H3"), captures=True)
    assert found.captured_clean is not None
    assert found.captured_ablated is not None
    _, cache = model.bridge.run_with_cache(torch.tensor([model.encode(TEXT, bos=True)]))
    for head in (Head(0, 0), Head(1, 3), Head(model.shape.n_layers - 1, 1)):
        wanted = cache[f"blocks.{head.layer}.attn.hook_pattern"][0, head.head].detach().numpy()
        np.testing.assert_allclose(found.captured_clean.pattern(head).rows(), wanted, atol=1e-4)
    first, later = (np.abs(found.captured_clean.query - found.captured_ablated.query)[i].max() for i in (0, -1))
    assert first == 0
    assert later > 1e-4


def test_random_sets_take_as_many_heads_of_each_layer_and_none_of_those_asked_for(planted: Planted) -> None:
    model = planted("all")
    found = answer(model, heads=HEADS, random_sets=4, seed=3)
    wanted = Counter(Head.parse(label).layer for label in HEADS)
    assert len({drawn.heads for drawn in found.random_sets}) == 4
    for drawn in found.random_sets:
        assert Counter(Head.parse(label).layer for label in drawn.heads) == wanted
        assert not set(drawn.heads) & set(HEADS)
    logits, loss = whole_run(model, found.random_sets[2].heads)
    assert found.random_sets[2].loss == pytest.approx(float(loss.mean()), abs=1e-4)
    assert found.random_sets[2].kl == pytest.approx(divergence(whole_run(model, ())[0][-1], logits[-1]), abs=1e-4)


def test_random_sets_follow_the_seed_and_run_out(planted: Planted) -> None:
    model = planted("all")
    one, same, other = (draw_sets(model, [Head(1, 2)], sets=3, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    few = answer(model, heads=tuple(f"L1H{head}" for head in range(1, model.shape.n_heads)), random_sets=20)
    assert any("nearest layers" in note for note in few.reservations)
    alone = answer(model, heads=("L1H0",), random_sets=20)
    assert len(alone.random_sets) == model.shape.n_heads - 1
    assert any(f"only {model.shape.n_heads - 1} different" in note for note in alone.reservations)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_mean_and_resample_say_what_they_were_taken_from(planted: Planted, how: str) -> None:
    model = planted("all")
    one, same, other = (answer(model, heads=HEADS, ablation=how, seed=seed) for seed in (0, 0, 1))
    assert any("passages of 16 tokens" in note and "8" in note for note in one.reservations)
    assert one.ablated is not None
    assert same.ablated is not None
    assert other.ablated is not None
    np.testing.assert_array_equal(one.ablated.logits, same.ablated.logits)
    assert not np.array_equal(one.ablated.logits, other.ablated.logits)
    assert not np.allclose(one.ablated.logits, one.clean.logits, atol=1e-3)


@pytest.mark.parametrize("position", [-1, 5])
@pytest.mark.parametrize("how", ["mean", "resample"])
def test_mean_and_resample_take_z_of_the_passages_they_name(planted: Planted, how: str, position: int) -> None:
    model, seed = planted("all"), 3
    tokens = torch.tensor([model.encode(TEXT, bos=True)])
    bench = Bench(model, ProbeConfig(seed=seed))
    generator = bench.generator("live reference")
    passages = build_prose(model, bench.held_out, n=8, length=tokens.shape[1], generator=generator)
    heads = [Head.parse(label) for label in HEADS]
    z = {layer: z_of_passages(model, passages, layer) for layer in {head.layer for head in heads}}
    order = torch.arange(len(passages))
    if how == "resample":
        drawn = Reference.capture(model, passages, heads, generator=torch.Generator().manual_seed(seed)).order[0]
        z, order = {layer: every[[int(drawn)]] for layer, every in z.items()}, torch.zeros(1, dtype=torch.long)
    with ablate(model, heads, how, reference=Reference(z, order)):
        logits = model.logits(tokens)[0]
    found = answer(model, heads=HEADS, ablation=how, seed=seed, position=position)
    assert found.ablated is not None
    np.testing.assert_allclose(found.ablated.logits, logits[position], atol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
    np.testing.assert_allclose(found.ablated.loss, loss, atol=1e-4)


def z_of_passages(model: BridgedModel, passages: Tensor, layer: int) -> Tensor:
    """z of a layer as TransformerLens has it: (passage, head, position, d_head)."""
    name = f"blocks.{layer}.attn.hook_z"
    _, cache = model.bridge.run_with_cache(passages, names_filter=name)
    return cache[name].detach().transpose(1, 2)


@pytest.mark.parametrize("name", ["gpt_oss, learned sinks", "gpt_neo, no registry"])
def test_a_model_that_cannot_be_edited_says_so_and_answers_the_rest(tiny: Tiny, name: str) -> None:
    found = answer(tiny(name), text="the old keeper said", heads=("L0H1",), random_sets=2)
    assert found.ablated is None
    assert found.random_sets == ()
    (refusal,) = [refusal for refusal in found.refusals if refusal.part == "ablation"]
    assert refusal.reason.startswith("this model cannot do that, because ")
    assert found.lens is not None
    assert found.lens.logit_diff[-1] == pytest.approx(found.clean.logit_diff, abs=1e-3)


def test_a_text_of_one_token_has_no_loss(planted: Planted) -> None:
    found = answer(planted("all"), text="amber", bos=False, heads=("L0H1",))
    assert found.n_tokens == 1
    assert np.isnan(found.clean.mean_loss)
    assert any("one token" in note for note in found.reservations)


def test_what_the_text_cannot_be_is_said(planted: Planted) -> None:
    model = planted("all")
    with pytest.raises(TaskError, match="no tokens"):
        answer(model, text="  ", bos=False)
    with pytest.raises(TaskError, match=r"the text has 5001 tokens.* at most \d+"):
        answer(model, text="a " * 5000)
    with pytest.raises(ConfigError, match="position 40 is outside the text of 16 tokens: use -16 to 15"):
        answer(model, position=40)


class TestDesk:
    """One model, one text, one request after the other."""

    def test_another_set_of_heads_runs_only_the_later_layers(self) -> None:
        desk, ran = Desk(quiet), list[str]()
        tell = lambda message, *_: ran.append(message)  # noqa: E731
        settings = {"choice": CHOICE, "text": TEXT}
        desk.answer(LabRequest(**settings, heads=("L1H2",)), tell=tell, check=quiet)
        assert ran == ["loading planted:all", "clean run", "ablated run"]
        layers = desk._model.shape.n_layers if desk._model else 0
        calls: list[int] = []
        handles = [
            block.mlp.register_forward_hook(lambda *_, i=i: calls.append(i))
            for i, block in enumerate(desk._model.blocks)  # type: ignore[union-attr]
        ]
        ran.clear()
        desk.answer(LabRequest(**settings, heads=("L1H3",)), tell=tell, check=quiet)
        assert ran == ["ablated run"]
        assert calls == list(range(1, layers))
        for handle in handles:
            handle.remove()

    def test_the_model_is_dropped_for_another_and_nothing_is_left_on_it(self) -> None:
        said = list[tuple[str, str]]()
        desk = Desk(lambda state, name: said.append((state, name)))
        ask = lambda name: desk.answer(  # noqa: E731
            CaptureRequest(choice=ModelChoice(model=name, device="cpu"), text=TEXT, heads=("L0H0",)),
            tell=quiet,
            check=quiet,
        )
        assert isinstance(ask("planted:sink"), CaptureResult)
        parts = list(desk._model.plain.modules()) if desk._model else []
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        assert ask("planted:local").model == "planted:local"
        with pytest.raises(UnknownNameError, match="smollm2"):
            ask("smolm2")
        names = ["planted:sink", "planted:sink", "planted:local", "planted:local", "smolm2", ""]
        assert [name for _, name in said] == names
        assert said[-1] == ("off", "")

    def test_queries_and_keys_are_of_the_heads_named_or_of_all(self) -> None:
        desk = Desk(quiet)

        def ask(text: str, *heads: str) -> CapturedText:
            found = desk.answer(CaptureRequest(choice=CHOICE, text=text, heads=heads), tell=quiet, check=quiet)
            assert isinstance(found, CaptureResult)
            return found.captured

        assert ask(TEXT, "L1H1", "L0H2").heads == (Head(0, 2), Head(1, 1))
        everything = ask(TEXT)
        assert desk._model is not None
        assert len(everything.heads) == desk._model.shape.n_layers * desk._model.shape.n_heads
        assert len(ask("a the " * 300, "L1H1").text) == 601
        with pytest.raises(
            UnsupportedError, match="because all heads are kept up to 512 tokens, and this text has 601"
        ):
            ask("a the " * 300)

    def test_a_request_is_stopped_at_the_next_layer(self) -> None:
        desk, left = Desk(quiet), [0]
        desk.answer(CaptureRequest(choice=CHOICE, text="a"), tell=quiet, check=quiet)

        def check() -> None:
            left[0] += 1
            if left[0] == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            desk.answer(LabRequest(choice=CHOICE, text=TEXT, heads=HEADS), tell=quiet, check=check)
        assert left[0] == 6
        found = desk.answer(LabRequest(choice=CHOICE, text=TEXT, heads=HEADS), tell=quiet, check=quiet)
        assert isinstance(found, LabResult)
        assert desk._model is not None
        np.testing.assert_allclose(found.clean.logits, whole_run(desk._model, ())[0][-1], atol=1e-4)

    def test_a_head_that_the_model_lacks_is_refused(self) -> None:
        with pytest.raises(HeadIndexError, match="'planted:all' has no head L90H0"):
            Desk(quiet).answer(LabRequest(choice=CHOICE, text="a", heads=("L90H0",)), tell=quiet, check=quiet)


@pytest.mark.slow
def test_a_lab_request_on_the_real_model_takes_seconds(smollm2: BridgedModel) -> None:
    text = "The old lighthouse keeper wrote that the ships came back from the islands every spring. " * 8
    heads = ("L5H1", "L12H3", "L17H0", "L20H6", "L25H2")
    found = answer(smollm2, text=text, heads=heads)
    start = time.perf_counter()
    again = answer(smollm2, text=text, heads=heads, random_sets=1)
    seconds = time.perf_counter() - start
    assert 100 < found.n_tokens < 200
    assert found.attribution is not None
    assert abs(found.attribution.gap) < 1e-3
    assert again.kl == found.kl
    assert seconds < 10
