"""Calibration and policies of a live answer: the library's own numbers, what was kept counted, patterns never wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.live.clean_text import CleanText, encode, row_of
from app.live.lab import run_lab
from app.live.policy_choice import OFFERED, is_sized
from app.live.policy_runs import split_of, whole_groups
from app.live.requests import LabRequest, ModelChoice
from app.live.results import LabResult
from circuits.calibration.act import Act, heads_by_layer
from circuits.calibration.outputs import calibrated
from circuits.interventions import ablate
from circuits.policies.catalog import build_policy
from circuits.policies.policy import applied
from circuits.policies.settings import ActSettings
from headscope.errors import ConfigError, UnknownNameError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.readings import read

Tiny = Callable[[str], BridgedModel]
CHOICE = ModelChoice(model="somewhere", device="cpu")
TEXT = "the old keeper said that the secret word is amber and the old keeper said that the river is wide"
HEADS = ("L0H1", "L2H3")
BOUNDS_OF_PAGES = ("quest", "lserve", "longheads")


@pytest.fixture
def model(tiny: Tiny) -> BridgedModel:
    """A random decoder of 3 layers, 4 query heads and 2 key/value heads."""
    return tiny("llama")


def answer(model: BridgedModel, **settings: Any) -> LabResult:
    """The answer to a lab request, worked out in this process."""
    asked = LabRequest.parse({"choice": CHOICE, "text": TEXT, "bos": False, **settings})
    ids = encode(model, asked)
    clean = CleanText.of(model, ids, row_of(asked.position, len(ids)))
    return run_lab(model, clean, asked, tell=lambda *_: None, check=lambda: None)


def tokens_of(model: BridgedModel) -> Tensor:
    return torch.tensor([model.encode(TEXT, bos=False)])


def heads(*labels: str) -> list[Head]:
    return [Head.parse(label) for label in labels]


def same(found: LabResult, logits: Tensor, tolerance: float = 1e-4) -> None:
    """The changed run has these logits, T x d_vocab."""
    assert found.ablated is not None
    np.testing.assert_allclose(found.ablated.logits, logits[found.position], atol=tolerance)
    targets = torch.tensor(found.text.ids[1:])
    loss = torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="none")
    np.testing.assert_allclose(found.ablated.loss, loss, atol=tolerance)


def differs(found: LabResult) -> bool:
    assert found.ablated is not None
    return bool(np.abs(found.ablated.loss - found.clean.loss).max() > 1e-4)


class TestCalibration:
    """The kind of ablation that is none."""

    def test_it_is_the_librarys_calibration_of_those_heads(
        self, model: BridgedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = ActSettings(alpha=1.01, keep_first=False)
        monkeypatch.setattr("app.live.calibrated_runs._SETTINGS", settings)  # random heads have no sinks by the paper's
        found = answer(model, heads=HEADS, ablation="act", random_sets=2, captures=True)
        with calibrated(model, heads(*HEADS), settings), torch.no_grad():
            same(found, model.logits(tokens_of(model))[0])
        assert differs(found)
        assert found.cost is None
        with calibrated(model, heads(*found.random_sets[1].heads), settings), torch.no_grad():
            logits = model.logits(tokens_of(model))[0]
        assert found.random_sets[1].logit_diff == pytest.approx(float(logits[-1, found.a.id] - logits[-1, found.b.id]))
        assert any(note.startswith("ACT finds sinks besides the first in 2 of 2 heads") for note in found.reservations)

    def test_the_pattern_shown_is_the_calibrated_one(
        self, model: BridgedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = ActSettings(alpha=1.01, keep_first=False)
        monkeypatch.setattr("app.live.calibrated_runs._SETTINGS", settings)
        found = answer(model, heads=("L1H2",), ablation="act", captures=True)
        with applied(model, Act(settings, heads_by_layer(model, heads("L1H2")))):
            wanted = patterns(model)
        shown = found.captured_ablated
        assert shown is not None
        assert found.captured_clean is not None
        for head, matrix in wanted.items():
            np.testing.assert_allclose(shown.pattern(head).rows(), matrix, atol=1e-5)
        clean = found.captured_clean.pattern(Head(1, 2)).rows()
        assert np.abs(shown.pattern(Head(1, 2)).rows() - clean).max() > 1e-3

    def test_heads_without_sinks_are_left_alone(self, model: BridgedModel) -> None:
        found = answer(model, heads=HEADS, ablation="act")
        assert found.ablated is not None
        np.testing.assert_array_equal(found.ablated.logits, answer(model).clean.logits)
        assert found.kl == pytest.approx(0, abs=1e-9)
        assert "ACT finds no sink besides the first in 2 heads: nothing was changed." in found.reservations


def patterns(model: BridgedModel) -> dict[Head, np.ndarray]:
    """Every head's pattern under whatever is open."""
    found: dict[Head, np.ndarray] = {}

    def take(layer: int, reading: Any) -> None:
        found.update({Head(layer, h): reading.pattern[0, h].numpy() for h in range(model.shape.n_heads)})

    read(model, tokens_of(model), take)
    return found


@pytest.mark.parametrize("name", [name for name in OFFERED if is_sized(name) and not OFFERED[name].needs_split])
def test_a_policy_with_room_for_the_text_changes_nothing(model: BridgedModel, name: str) -> None:
    found = answer(model, policy=name, kept=4_096)
    assert found.ablated is not None
    np.testing.assert_allclose(found.ablated.logits, found.clean.logits, atol=1e-4)
    assert not differs(found)


@pytest.mark.parametrize("name", OFFERED)
@pytest.mark.parametrize("kept", [1, 5])
def test_every_policy_answers_at_any_size(model: BridgedModel, name: str, kept: int) -> None:
    found = answer(model, policy=name, kept=kept, heads=("L1H1",), position=12)
    assert found.refusals == ()
    assert found.ablated is not None
    assert np.isfinite(found.ablated.loss).all()
    assert found.cost is not None
    assert 0 < found.cost.share_kept <= (3.1 if name in BOUNDS_OF_PAGES else 1.1)
    assert found.cost.from_row in (0, 12)


def test_streaming_is_the_policy_by_hand_on_all_heads(model: BridgedModel) -> None:
    found = answer(model, policy="streaming", kept=7, captures=True)
    policy = build_policy(model, "streaming", {"sink": 1, "recent": 6})
    with applied(model, policy) as opened, torch.no_grad():
        same(found, model.logits(tokens_of(model))[0])
        wanted = patterns(model)
    assert differs(found)
    size = found.n_tokens
    assert found.cost is not None
    assert (found.cost.from_row, found.cost.kv_bytes) == (0, opened.tally.kv_bytes)
    assert found.cost.share_kept == pytest.approx(7 / size)
    attended = sum(min(row + 1, 7) for row in range(size)) / (size * (size + 1) / 2)
    assert found.cost.share_attended == pytest.approx(attended)
    assert found.captured_ablated is not None
    for head, matrix in wanted.items():
        np.testing.assert_allclose(found.captured_ablated.pattern(head).rows(), matrix, atol=1e-5)


def test_heads_are_ablated_besides_and_random_ones_in_their_place(model: BridgedModel) -> None:
    later = ("L1H1", "L2H3")  # the policy acts on the first layer too
    found = answer(model, policy="streaming", kept=6, heads=later, ablation="to_bos", random_sets=2)
    policy = build_policy(model, "streaming", {"sink": 1, "recent": 5})
    for labels, shown in ((later, found.ablated), (found.random_sets[1].heads, None)):
        with applied(model, policy), ablate(model, heads(*labels), "to_bos"), torch.no_grad():
            logits = model.logits(tokens_of(model))[0]
        if shown is not None:
            same(found, logits)
        else:
            difference = float(logits[-1, found.a.id] - logits[-1, found.b.id])
            assert found.random_sets[1].logit_diff == pytest.approx(difference, abs=1e-5)


def test_a_policy_of_the_decoder_leaves_the_text_before_the_position(model: BridgedModel) -> None:
    found = answer(model, policy="tova", kept=3, position=11)
    assert found.cost is not None
    assert found.cost.from_row == 11
    assert found.ablated is not None
    np.testing.assert_allclose(found.ablated.loss[:11], found.clean.loss[:11], atol=1e-5)
    assert np.abs(found.ablated.loss[11:] - found.clean.loss[11:]).max() > 1e-4
    with applied(model, build_policy(model, "tova", {"budget": 3}), from_row=11), torch.no_grad():
        same(found, model.logits(tokens_of(model))[0])


class TestWholeHeads:
    """Policies that keep the chosen heads whole."""

    def test_exactly_the_groups_of_the_chosen_heads_keep_everything(self, model: BridgedModel) -> None:
        assert split_of(model.shape, heads("L0H1", "L0H0", "L2H3")).full.tolist() == [
            [True, False], [False, False], [False, True],
        ]  # fmt: skip
        assert whole_groups(model.shape, heads(*HEADS)) == heads("L0H0", "L0H1", "L2H2", "L2H3")
        found = answer(model, policy="duo", kept=4, heads=HEADS, ablation="zero", captures=True)
        assert found.cost is not None
        size = found.n_tokens
        assert found.cost.share_kept == pytest.approx((2 * size + 4 * 4) / (6 * size))
        assert found.cost.whole == ("L0H0", "L0H1", "L2H2", "L2H3")
        assert found.captured_ablated is not None
        last = {head: (found.captured_ablated.pattern(head).rows()[-1] > 0).sum() for head in all_heads(model)}
        assert {str(head) for head, seen in last.items() if seen == size} == set(found.cost.whole)
        assert {seen for head, seen in last.items() if str(head) not in found.cost.whole} == {4}

    def test_random_sets_keep_as_many_other_key_value_heads(self, model: BridgedModel) -> None:
        found = answer(model, policy="duo", kept=4, heads=("L0H0", "L0H1", "L2H3"), random_sets=3)
        assert [drawn.heads for drawn in found.random_sets] == [("L0H2", "L0H3", "L2H0", "L2H1")]
        assert any("only 1 different random sets of as many key/value heads" in note for note in found.reservations)
        policy = build_policy(model, "duo", {"sink": 1, "recent": 3}, split_of(model.shape, heads("L0H2", "L2H1")))
        with applied(model, policy), torch.no_grad():
            logits = model.logits(tokens_of(model))[0]
        difference = float(logits[-1, found.a.id] - logits[-1, found.b.id])
        assert found.random_sets[0].logit_diff == pytest.approx(difference, abs=1e-5)

    def test_all_heads_whole_is_the_model_and_none_cuts_all(self, model: BridgedModel) -> None:
        every = tuple(map(str, all_heads(model)))
        assert not differs(answer(model, policy="duo", kept=3, heads=every))
        none = answer(model, policy="duo", kept=3)
        assert none.cost is not None
        assert (none.cost.whole, differs(none)) == ((), True)
        assert none.cost.share_kept == pytest.approx(3 / none.n_tokens)


def all_heads(model: BridgedModel) -> list[Head]:
    shape = model.shape
    return [Head(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]


@pytest.mark.parametrize("name", ["gpt_oss, learned sinks", "gpt_neo, no registry"])
@pytest.mark.parametrize("asked", [{"policy": "streaming"}, {"heads": ("L0H1",), "ablation": "act"}], ids=str)
def test_a_model_off_the_seam_says_so_and_shows_no_pattern(tiny: Tiny, name: str, asked: dict[str, Any]) -> None:
    found = answer(tiny(name), text="the old keeper said", captures=True, **asked)
    assert (found.ablated, found.cost, found.captured_ablated) == (None, None, None)
    part = "policy" if "policy" in asked else "calibration"
    (refusal,) = [one for one in found.refusals if one.part == part]
    assert refusal.reason.startswith("this model cannot do that, because ")


def test_too_many_whole_patterns_are_refused(model: BridgedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.live.clean_text._MOST_CAPTURED", 4 * 12 * 10 * 10)
    monkeypatch.setattr("app.live.lab.CleanText.captures", lambda _: "the clean ones")
    found = answer(model, policy="streaming", captures=True)
    assert found.captured_ablated is None
    (refusal,) = found.refusals
    assert refusal.part == "captures of the run under the policy"
    assert "12 heads are kept up to 10 tokens" in refusal.reason


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"policy": "streming"}, UnknownNameError, "Did you mean 'streaming'"),
        ({"policy": "act"}, ConfigError, "choose the ablation 'act'"),
        ({"policy": "streaming", "kept": 0}, ConfigError, "kept"),
        ({"policy": "streaming", "heads": ("L0H0",), "ablation": "act"}, ConfigError, "both change where heads look"),
    ],
    ids=["unknown", "act", "no tokens", "two at once"],
)
def test_what_cannot_be_asked_is_said(asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        LabRequest.parse({"choice": CHOICE, "text": TEXT, **asked})


def test_fields_that_change_nothing_do_not_make_another_question() -> None:
    def key(**asked: Any) -> str:
        return LabRequest.parse({"choice": CHOICE, "text": TEXT, "heads": HEADS, **asked}).key

    assert key(kept=7) == key(kept=9, policy="full") == key()
    assert key(policy="sigmoid", kept=7) == key(policy="sigmoid")
    assert key(policy="duo", ablation="mean") == key(policy="duo")
    assert len({key(policy="duo", kept=7), key(policy="duo"), key(policy="streaming"), key()}) == 4
