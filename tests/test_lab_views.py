"""What the Prompt lab shows is what the answer says: tables, ranks, temperature, and the place among random sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.figures.attribution import attribution_figure
from app.figures.lens import lens_figure
from app.figures.random_sets import random_sets_figure
from app.live.requests import LabRequest, ModelChoice
from app.live.results import (
    Attribution,
    LabResult,
    Lens,
    ModelFacts,
    NamedToken,
    Outcome,
    PolicyCost,
    RandomSet,
    Refusal,
)
from app.views.lab import LabView, intervention, token_losses, token_table
from app.views.lab_effect import effect_table, effects
from app.views.lab_parts import attribution_sentence, attribution_table, lens_table, strongest_head
from app.views.lab_words import ABLATIONS, random_words, refusal_of_captures
from app.views.next_tokens import next_token_table, next_tokens, probabilities
from app.views.table import table_csv
from headscope.captures import TokenText

WORDS = ("<s>", " the", "\n", "=1+1", "x", "y")
CLEAN = np.array([0.5, 3.0, 2.0, 1.0, -1.0, 0.0], dtype=np.float32)
ABLATED = np.array([0.5, 1.0, 2.0, 4.0, -1.0, 0.0], dtype=np.float32)
REQUEST = LabRequest(choice=ModelChoice(model="made-up"), text="the", heads=("L1H0", "L0H1"))


def outcome(logits: np.ndarray, *loss: float) -> Outcome:
    return Outcome(logits, float(logits[1] - logits[2]), np.array(loss, dtype=np.float32))


def random_set(change: float) -> RandomSet:
    return RandomSet(("L0H0", "L1H1"), 1.0 + change, abs(change), 2.0 + change)


def answer(**changes: object) -> LabResult:
    """A made-up answer: A minus B goes from 1 to -1 logits, the loss from 2 to 2.5."""
    made = LabResult(
        model="made-up",
        facts=ModelFacts("nowhere", "0" * 40, 2, 2, 1, 4, 8, 64),
        text=TokenText((0, 1, 2), WORDS[:3]),
        position=2,
        a=NamedToken(1, WORDS[1]),
        b=NamedToken(2, WORDS[2]),
        tokens=tuple(NamedToken(i, WORDS[i]) for i in (1, 2, 3, 0)),
        clean=outcome(CLEAN, 1.0, 3.0),
        ablated=outcome(ABLATED, 2.0, 3.0),
        kl=0.75,
        lens=Lens(
            np.array([[3, 2], [1, 2], [1, 2]]),
            (("=1+1", "\n"), (" the", "\n"), (" the", "\n")),
            np.array([[0.9, 0.1], [0.6, 0.3], [0.7, 0.2]], dtype=np.float32),
            np.array([0.0, 0.6, 0.7], dtype=np.float32),
            np.array([0.1, 0.3, 0.2], dtype=np.float32),
            np.array([-1.0, 0.5, 1.0], dtype=np.float32),
        ),
        attribution=Attribution(
            np.array([[0.1, -0.7], [0.2, 0.0]], dtype=np.float32),
            np.array([0.5, 0.6], dtype=np.float32),
            np.zeros(2, dtype=np.float32),
            embed=0.25, final_bias=0.0, total=0.95, real=1.0,
        ),
        random_sets=(random_set(-0.5), random_set(1.5), random_set(-3.0), random_set(0.0)),
        captured_clean=None, captured_ablated=None, refusals=(), reservations=("so it is",), path="plain", seconds=0.1,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
def test_probabilities_are_those_of_the_definition(temperature: float) -> None:
    powers = [np.exp(float(logit) / temperature) for logit in CLEAN]
    np.testing.assert_allclose(probabilities(CLEAN, temperature), np.array(powers) / sum(powers), rtol=1e-12)
    assert probabilities(CLEAN * 1000, temperature).sum() == pytest.approx(1)


def test_next_tokens_are_ranked_over_the_whole_vocabulary_at_any_temperature() -> None:
    for temperature in (0.2, 1.0, 3.0):
        found = {one.text: one for one in next_tokens(answer(), temperature)}
        assert [one.rank for one in found.values()] == [1, 2, 3, 4]
        assert found["=1+1"].rank_ablated == 1
        assert found[" the"].rank_ablated == 3
        assert found[" the"].change == pytest.approx(
            probabilities(ABLATED, temperature)[1] - probabilities(CLEAN, temperature)[1]
        )
    assert np.isnan(next_tokens(answer(ablated=None))[0].p_ablated)


def test_the_csv_of_next_tokens_has_every_digit_and_no_formula() -> None:
    lines = table_csv(next_token_table(LabView(REQUEST, answer()), 0.5)).splitlines()
    p = probabilities(CLEAN, 0.5)[1]
    assert repr(float(p)) in lines[1]
    assert any("'=1+1" in line for line in lines)
    alone = table_csv(next_token_table(LabView(REQUEST, answer(ablated=None)), 0.5))
    assert alone.splitlines()[1].endswith(",,,,")


def test_the_place_among_random_sets_counts_changes_either_way() -> None:
    view = LabView(REQUEST, answer())
    logit_diff, kl, loss = effects(view)
    assert logit_diff.change == -2.0
    assert (logit_diff.changed_less, logit_diff.sentence) == (3, "3 of 4 random sets change it less.")
    assert kl.sentence == "2 of 4 random sets change it less."
    assert loss.change == pytest.approx(0.5)
    assert loss.changed_less == 1  # one changes it exactly as much
    assert effects(LabView(REQUEST, answer(random_sets=())))[0].sentence == ""
    assert effects(LabView(REQUEST, answer(random_sets=(random_set(0.1),))))[0].sentence.startswith(
        "1 of 1 random set ch"
    )
    assert effects(LabView(REQUEST, answer(ablated=None, kl=None))) == ()
    rows = effect_table(view).records()
    assert [row["run"] for row in rows] == ["untouched", "ablated", "random 1", "random 2", "random 3", "random 4"]
    assert [row["logit_diff_change"] for row in rows] == [0.0, -2.0, -0.5, 1.5, -3.0, 0.0]


def test_the_figure_of_random_sets_has_the_numbers_of_the_table() -> None:
    figure = random_sets_figure(effects(LabView(REQUEST, answer())))
    assert list(figure.data[0].x) == [0.5, 2.5, -2.0, 1.0]
    assert [list(trace.x) for trace in figure.data if trace.name == "ablated"] == [[-1.0], [0.75], [2.5]]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["random sets", "untouched", "ablated"]


def test_a_loss_belongs_to_the_token_it_is_of() -> None:
    clean, ablated = token_losses(answer())
    assert np.isnan(clean[0])
    assert clean[1:].tolist() == [1.0, 3.0]
    assert ablated is not None
    rows = token_table(LabView(REQUEST, answer())).records()
    assert [row["loss_clean"] for row in rows] == [None, 1.0, 3.0]
    assert [row["change"] for row in rows] == [None, 1.0, 0.0]
    assert [row["change"] for row in token_table(LabView(REQUEST, answer(ablated=None))).records()] == [None] * 3


def test_attribution_lists_every_part_once_and_says_the_gap() -> None:
    parts = answer().attribution
    assert parts is not None
    rows = attribution_table(LabView(REQUEST, answer()), parts).records()
    written = sum(row["contribution"] for row in rows if row["part"] not in ("sum", "real"))  # type: ignore[misc]
    assert written == pytest.approx(parts.total, abs=1e-6)
    assert "sum to +0.950, the logits differ by +1.000: gap +0.0500" in attribution_sentence(parts)
    assert strongest_head(parts) == ("L0H1", pytest.approx(-0.7))
    figure = attribution_figure(parts)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (pytest.approx(-0.7), pytest.approx(0.7))
    assert figure.data[0].customdata[1][0] == "L1H0"
    assert [trace.name for trace in figure.data[1:]] == ["MLP", "embedding, final bias"]
    biased = attribution_figure(replace(parts, attention_bias=np.ones(2, dtype=np.float32)))
    assert biased.data[-1].name == "attention bias"


def test_the_lens_shows_tokens_as_text_and_not_as_markup() -> None:
    lens = answer().lens
    assert lens is not None
    odd = replace(lens, top_text=(("<b>x</b>", "\n"), *lens.top_text[1:]))
    figure = lens_figure(odd, " the", "<s>")
    assert figure.data[0].text[0][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.data[0].text[0][1] == "↵"
    assert figure.data[2].name == "p of B '&lt;s&gt;'"
    assert list(figure.data[1].x) == pytest.approx([0.0, 0.6, 0.7])
    rows = lens_table(LabView(REQUEST, answer()), lens).records()
    assert len(rows) == 6
    assert (rows[2]["token"], rows[2]["p_a"], rows[2]["stage"]) == (" the", pytest.approx(0.6), 1)


def test_every_result_says_which_ablation_was_used_and_on_what() -> None:
    view = LabView(REQUEST.model_copy(update={"ablation": "to_bos"}), answer())
    assert intervention(view) == (
        "Ablated at every position (to_bos: all its attention goes to position 0): L0H1, L1H0."
    )
    refused = answer(refusals=(Refusal("ablation", "this model cannot do that, because of sinks"),), ablated=None)
    assert intervention(LabView(REQUEST, refused)) == "Nothing was ablated: this model cannot do that, because of sinks"
    many = REQUEST.model_copy(update={"heads": tuple(f"L0H{i}" for i in range(40))})
    assert intervention(LabView(many, answer())).endswith("L0H11 and 28 more.")
    assert "untouched" in intervention(LabView(REQUEST.model_copy(update={"heads": ()}), answer()))
    assert LabView(REQUEST, answer()).source.startswith(
        "LIVE, NOT SAVED · made-up (000000000000) · one text of 3 tokens"
    )


def asked(**changes: object) -> LabRequest:
    return LabRequest.parse({**REQUEST.model_dump(), **changes})


def test_what_was_done_is_called_what_it_was() -> None:
    act = asked(ablation="act")
    assert intervention(LabView(act, answer())) == (
        f"Calibrated at every position (ACT: {ABLATIONS['act'][1]}): L0H1, L1H0."
    )
    cost = PolicyCost(0, 512.0, 2048.0, 0.5)
    said = intervention(LabView(asked(policy="streaming", kept=10, ablation="to_bos"), answer(cost=cost)))
    assert said.startswith("Under StreamingLLM from the first token on: every head keeps")
    assert "(sink 2, recent 8, positions cache). Ablated besides (to_bos: " in said
    assert said.endswith("keeps 25.0% of the full one (0.5 KiB of 2.0 KiB), and rows attend to 50.0% of the keys.")
    late = intervention(LabView(asked(policy="tova"), answer(cost=PolicyCost(2, 1.0, 2.0, 0.5))))
    assert late.startswith("Under Newest row's attention (TOVA) from position 2 on, the text before it read in full: ")
    whole = PolicyCost(0, 1.0, 2.0, 0.5, ("L0H0", "L0H1"))
    kept = intervention(LabView(asked(policy="duo"), answer(cost=whole)))
    assert "Heads that keep everything, with all that share their keys: L0H0, L0H1." in kept
    assert "blated" not in kept
    alone = intervention(LabView(asked(policy="duo", heads=()), answer(cost=cost)))
    assert "No head is ticked, so all are cut." in alone


def test_tables_and_figures_name_the_changed_run() -> None:
    for changes, name in (({"ablation": "act"}, "calibrated"), ({"policy": "streaming"}, "under the policy")):
        view = LabView(asked(**changes), answer())
        assert effect_table(view).records()[1]["run"] == name
        assert [column.title for column in token_table(view).columns][4] == f"Loss, {name}"
        assert [column.title for column in next_token_table(view, 1.0).columns][5] == f"Rank, {name}"
        traces = [trace.name for trace in random_sets_figure(effects(view)).data if trace.showlegend]
        assert traces == ["random sets", "untouched", name]
    assert random_words(asked(ablation="act")).endswith("of the same layers, calibrated the same way")
    assert random_words(asked(policy="h2o")).endswith("ablated the same way, under the same policy")
    assert "keep everything instead" in random_words(asked(policy="duo"))


def test_a_refused_policy_is_said_under_its_own_name() -> None:
    refused = answer(
        ablated=None, refusals=(Refusal("policy", "of a mask"), Refusal("captures of the run under the policy", "long"))
    )
    view = LabView(asked(policy="streaming"), refused)
    assert intervention(view) == "Nothing was changed: of a mask"
    assert refusal_of_captures(refused, changed=True) == "long"
    assert refusal_of_captures(refused, changed=False) == ""
