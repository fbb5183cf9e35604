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
# # Variants and the heads they grow
#
# Take softmax out of a small model and put something else in: a sigmoid, a linear recurrence, a delta rule. Does it
# still solve recall? With the same heads? Every variant here computes `z = M v`, so one can look at M of all of them
# in the same way, and cut what a head is said to use.

# %%
import torch

from app.figures.mixing import mixing_figure
from app.figures.variant_heads import strips_figure
from app.views.mixing import Board, Pictured, Tile
from app.views.variant_profiles import VIEWS, ProfileRow
from circuits.cell_cuts import Cells, cut_logits
from circuits.comparison import Compared, describe_model
from circuits.head_claims import cells_of, weight_of
from headscope.heads import Head
from headscope.mixers.registry import variants
from headscope.models.checkpoints import checkpoints, load_checkpoint
from headscope.readings.mixing import read_mixing
from headscope.training.settings import TaskChoice, TrainingConfig
from headscope.training.trainer import Trainer

# %% [markdown]
# ## What there is
#
# The registry knows the variants of the literature, their equations and where they come from. `headscope variants`
# lists it, and so does `docs/variants.md`.

# %%
known = variants()
print(len(known), "entries, of which", sum(one.status == "built" for one in known.values()), "can be trained")
for name in ("softmax", "sigmoid", "relu-squared", "linear", "gated-delta", "aaren"):
    print(f"{name:13s} {known[name].equation}")

# %% [markdown]
# ## Trained models, failures included
#
# The task is associative recall: four pairs of a key and a value, then keys again, whose values are asked. Two layers,
# one head in each, no MLP, learned positions. Thirty variants come trained, three seeds each. Whoever picks one of the
# four values at random is right in 0.25.

# %%
zoo = [one for one in checkpoints().values() if one.task == "mqar"]
scores = {one.variant: [f"{other.accuracy:.2f}" for other in zoo if other.variant == one.variant] for one in zoo}
for variant, of_seeds in sorted(scores.items(), key=lambda item: min(item[1]), reverse=True):
    print(f"{variant:15s}", "  ".join(of_seeds))

# %% [markdown]
# A failure means: not with this width, these rates and this many steps. It does not mean that the variant cannot. (Two
# layers with a window of eight tokens cannot: a question may stand too far behind its pair.)
#
# ## The same text through six of them
#
# Raw M cannot be compared: rows of a sigmoid need not sum to 1, a delta rule has negative weights. So each row is shown
# as what it *moves*: `|M_ij|` times the norm of what token j brings, over the sum of the row. One range of colours for
# all. Tokens 1 to 31 are keys, 32 to 63 values, 0 is the filler.

# %%
names = ("softmax.0", "sigmoid.0", "linear.0", "relu-squared.2", "gated-delta.2", "aaren.0")
loaded = {name: load_checkpoint(f"mqar.{name}") for name in names}
task = loaded["softmax.0"].task.held_out
batch = task.batch(128, torch.Generator().manual_seed(77))
tiles = [
    Tile(Pictured(name, name, one.entry.variant, ()), f"L{layer.layer}H0", None, layer.moved[0, 0].numpy())
    for name, one in loaded.items()
    for layer in read_mixing(one.model, batch.given)
]
mixing_figure(Board(tuple(tiles), ("L0H0", "L1H0"), tuple(str(int(token)) for token in batch.given[0]), 0))

# %% [markdown]
# ## What every head does
#
# Mean weights over all texts, in hundredths. *Share* is where a row looks, *moved* what it brings.
#
# - `offset 1`: any row, on the token before it;
# - `carry 1`: the row behind a key, on that key: a previous-token head where it is needed;
# - `match +0`: a question, on the earlier same key: a duplicate-token head;
# - `match +1`: a question, on what stood behind that key, the value: an induction or retrieval head.

# %%
reports = {
    name: describe_model(Compared(name, one.entry.variant, one.entry.seed, one.model), one.task, n=64, draws=20)
    for name, one in loaded.items()
}
shown = ("offset 1", "carry 1", "carry 2", "match +0", "match +1", "match +2")
rows = list[ProfileRow]()
for name, report in reports.items():
    for head in report.heads:
        by_view = {view: {cells: weight_of(head, cells, view) for cells in shown} for view in VIEWS}
        rows.append(ProfileRow(name, name, head.head, by_view, {}))
strips_figure(rows)

# %% [markdown]
# ## Does it matter?
#
# Where a kind of cells holds a quarter of what a head moves (`carry`: as much above even rows, which have a quarter
# there by themselves), that is a claim, and it is tested: these cells are set to 0, beside as many random cells of the
# same rows, and beside other cells that hold as much (where there are such).

# %%
for name, report in reports.items():
    print(f"{name}: accuracy {report.accuracy.mean:.2f}", "" if report.claims else "  (no claim)")
    for one in report.claims:
        beside = ", ".join(f"{other.name} {other.mean:.2f}" for other in one.check.controls if other.accuracies)
        print(f"    {one.head} {one.cells:9s} weight {one.weight:.2f}   cut: {one.check.cut:.2f}   ({beside})")

# %% [markdown]
# What counts in softmax, the sigmoid and the linear recurrence: `carry 1` in layer 0, which tells each value which key
# stood before it, and `match +1` in layer 1, which finds it by that. The known induction circuit. Aaren reads the four
# values and cannot choose: its rows do not depend on what is asked.
#
# ## Two circuits for one task, or three
#
# In two of the models above layer 0 reads `match +0` instead. Is that another circuit? Here the same kinds of cells are
# cut in every model of nine variants that solves the task, whatever its profile: each cut is a control of the others.
# One kind is new: a question, on the keys that are *not* asked for.

# %%
asked, key, value = (batch.marks[name] for name in ("query", "key", "value"))
each, every = key.repeat_interleave(4, 1), key.repeat(1, 4)
cuts = {
    "carry 1": (Head(0, 0), cells_of(batch, "carry 1")),
    "match +0": (Head(0, 0), cells_of(batch, "match +0")),
    "other keys": (Head(0, 0), Cells(asked.repeat_interleave(4, 1), every, every != each)),
    "match +1": (Head(1, 0), cells_of(batch, "match +1")),
}
chosen = ("softmax", "sigmoid", "linear", "delta", "gated-delta", "relu", "relu-squared", "stick-breaking", "retention")
solved = {one.name.removeprefix("mqar."): load_checkpoint(one.name) for one in zoo if one.variant in chosen}
solved = {name: one.model for name, one in solved.items() if one.entry.accuracy > 0.9}

# %%
print("accuracy after a cut of ", "   ".join(f"{head} {name:10s}" for name, (head, _) in cuts.items()))
for name, model in solved.items():
    with torch.no_grad():
        logits = [cut_logits(model, batch, head, cells.mask(batch.given.shape[1])) for head, cells in cuts.values()]
    left = (task.accuracy(one, batch) for one in logits)
    print(f"{name:24s}", "   ".join(f"{share:<15.2f}" for share in left))

# %% [markdown]
# Most models lose much without `carry 1` and do not miss `match +0`; some lose much without `match +0` and do not miss
# `carry 1`. Softmax, the sigmoid and the linear recurrence took the first way with all their seeds. The delta rule and
# stick-breaking took one way with one seed and the other with another, so it is not the variant alone that decides. One
# ReLU model needs neither, but all keys beside the one that is asked for. Three seeds are few: how often each way is
# taken needs more.
#
# Not all is told. In retention and in some models with ReLU, cutting `match +1` leaves much: the value comes from
# elsewhere, too. And of a recurrence a cut takes what a row reads of a token; the token stays in the state.
#
# ## What does the second circuit pass on?
#
# A question that has found its key in layer 0 could learn *where* it stands, and layer 1 could then read one place
# further. If so, a lie about places will be believed: what layer 0 reads of each key is made as if the key stood where
# the next one does. A pointer by place then answers with the value of the next pair.

# %%
keys, places, at_value = torch.tensor([0, 2, 4, 6]), torch.arange(32), "blocks.0.attn.hook_v"
places[keys] = keys.roll(-1)
for name, model in solved.items():
    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_pos_embed", lambda given, **_: given[..., places, :])]):
        _, lies = model.run_with_cache(batch.given, names_filter=[at_value])
    lie = lies[at_value][:, keys]
    edit = (at_value, lambda given, lie=lie, **_: given.index_copy(1, keys, lie))
    with torch.no_grad(), model.hooks(fwd_hooks=[edit]):
        said = model(batch.given).argmax(-1).gather(1, asked)
    right, following = ((said == batch.given.gather(1, at)).double().mean() for at in (value, (value + 2) % 8))
    print(f"{name:17s} right value {right:.2f}   value of the next pair {following:.2f}")

# %% [markdown]
# The models that need `carry 1` mostly stay right. Of those that do not need it nearly all believe the lie: they find a
# value by its place, the others by its key. On this task pairs always stand in the same eight places, which makes the
# second way easy.
#
# ## Train one yourself
#
# A short convolution before the mixer shows each token the one before it, so the work of layer 0 is done, and one layer
# is enough.

# %%
setting = {"n_heads": 1, "n_layers": 1, "position": "learned"}
choice = TaskChoice(kind="mqar", settings={"d_vocab": 64, "length": 32, "pairs": 4})
for conv in (0, 4):
    config = TrainingConfig.parse({"task": choice, "decoder": setting | {"conv": conv}, "steps": 500})
    training = Trainer(config).run()
    print(f"one layer, convolution {conv}: accuracy {training.tested:.2f} after {training.curve[-1].step} steps")

# %% [markdown]
# `headscope train` does this for many variants, rates and seeds at once, and keeps what it found in a run;
# `headscope compare` makes the comparison above for all of them, and the page Variants shows both.
