# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Calibrating attention
#
# Heads put much of their attention on a few tokens that say little: sinks. ACT (Yu et al. 2024) claims that those
# beyond the first one hurt, and that weakening them in chosen heads answers more questions right, without training.
# Does it, and is it the heads that were chosen, or would any have done?

# %%
import numpy as np
import torch

import headscope as hs
from app.figures.calibration_maps import before_after_figure
from circuits.calibration.calibrator import AttentionCalibrator
from circuits.calibration.judges import InContextJudge
from circuits.calibration.results import SINK_PLACES
from circuits.calibration.settings import CalibrationSettings, SelectionSettings, TrialSettings
from circuits.calibration.sink_places import before_and_after, map_sinks
from circuits.calibration.trial import run_trial
from headscope.tasks import build_in_context, labelled_set
from headscope.tasks.labelled import split

# %% [markdown]
# ## A task that needs no download
#
# Statements with a label, two worked examples before each. Heads are chosen on one part and judged on another; nothing
# that bears a label is in both.

# %%
model = hs.load("smollm2")
sentiment = labelled_set("sentiment")
parts = split(sentiment, select=12, test=16, shots=2)
generator = torch.Generator().manual_seed(0)
select, test = (
    InContextJudge(
        build_in_context(model, sentiment, items, demonstrations=parts.demonstrations, shots=2, generator=generator)
    )
    for items in (parts.select, parts.test)
)
print(test.batch.prompts[0], "...")

# %% [markdown]
# ## Where sinks sit
#
# A token is a sink of a head where it receives more than 5 / T of the attention of the rows that can see it, with T
# the length of the prompt. Most of it rests on the first token, which calibration leaves alone; the question is the
# rest.

# %%
rows = test.batch.rows[:4, 0]
found = map_sinks(model, test.batch.tokens[rows], CalibrationSettings().act, lengths=test.batch.lengths[rows])
for place, mass in zip(SINK_PLACES, found.mass.mean((0, 1)), strict=True):
    print(f"{place:12s} {mass:5.1%} of all attention rests on sinks there")

# %% [markdown]
# ## Choosing heads
#
# The released way calibrates every head alone and keeps those that help: a run per head. One backward pass gives the
# same to first order, for all heads at once.

# %%
settings = CalibrationSettings(selection=SelectionSettings(method="first-order", top=8))
calibrator = AttentionCalibrator(settings).fit(model, select)
print("chosen:", ", ".join(str(head) for head in calibrator.heads_))

# %% [markdown]
# What that does to the first of them: ▾ marks its sinks; what they lose goes to the other tokens of the row. Look where
# they are: the bound is a mean over the rows that can see a token, and few rows see the last ones, so a head that looks
# at the token itself has "sinks" there. The rule is the paper's; `least_share` in the settings asks for more rows.

# %%
text = test.batch.tokens[rows[0], : int(test.batch.lengths[rows[0]])]
before_after_figure(before_and_after(model, text, calibrator.heads_[0], settings.act))

# %% [markdown]
# ## Did it help?
#
# Beside the chosen heads: as many random heads of the same layers, all heads, and the chosen ones with their sinks fed
# instead of weakened.

# %%
trial = TrialSettings(calibration=settings, random_draws=2)
result = run_trial(model, select, test, trial, generator=np.random.default_rng(0))
for arm in result.arms:
    low, high = arm.change.low, arm.change.high
    print(
        f"{arm.arm.name:16s} {arm.answers.accuracy:.2f}  change {arm.change.mean:+.2f} [{low:+.2f}, {high:+.2f}]  "
        f"p {arm.p_value:.2f}  n {arm.n}"
    )

# %% [markdown]
# The chosen heads have to beat the baseline *and* the random heads. Sixteen items cannot decide that: look at how wide
# the intervals are. What they do show is that calibrating every head is no harmless thing.
#
# `headscope calibrate smollm2` runs six data sets with more items, with `--seeds 5` each of them parted in five ways;
# `docs/results/calibration.md` has the verdict, which this few could not have told.
