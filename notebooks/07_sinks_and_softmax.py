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
# # Sinks, and what softmax has to do with them
#
# Many heads of language models rest on the first token. A row of softmax must sum to 1, so a head with nothing to do
# has to look somewhere; with other attention, it was reported, sinks do not emerge (sigmoid without normalisation,
# arXiv 2410.10781) or become weaker (ReLU, 2410.13835). Small models on one task, with five normalisers: who rests on
# the first token, and what happens if it cannot?

# %%
import torch
from torch.nn.functional import cross_entropy

import headscope as hs
from app.figures.mixing import mixing_figure
from app.views.mixing import Board, Pictured, Tile
from circuits.cell_controls import random_cells, seen_cells
from circuits.cell_cuts import column_cells, cut_logits
from headscope.heads import Head
from headscope.models.checkpoints import load_checkpoint
from headscope.readings.capturing import capture
from headscope.readings.mixing import read_mixing
from headscope.tasks.bigram_backcopy import BigramBackcopy, statement_characters
from probes.dormant_heads import DormantHeads, RowKinds, uniform_first_weight

# %% [markdown]
# ## Sinks of a real model
#
# On one sentence: how many of SmolLM2's 270 heads put more than half of their weight on the first token? The score
# `sink` of `headscope score smollm2` measures it on real text. What its heads do is in notebook 02.

# %%
smollm2 = hs.load("smollm2", device="cpu")
text = "The spare key is under the blue pot. Ask Ann about the cat. The dog sleeps in the garden."
captured = capture(smollm2, smollm2.encode(text, bos=True), name="rest", title="two sentences")
heads = [Head(layer, head) for layer in range(smollm2.shape.n_layers) for head in range(smollm2.shape.n_heads)]
resting = [head for head in heads if captured.pattern(head).rows()[1:, 0].mean() > 0.5]
print(f"{len(resting)} of {len(heads)} heads")

# %% [markdown]
# ## A task with work for few rows
#
# Bigram-Backcopy: characters follow each other as in text, which needs no attention. But behind a trigger (one of the
# three most frequent characters) comes the character before it once more: there a head has to look back. One layer, one
# head and no MLP learn both.

# %%
mixers = ("softmax", "off-by-one", "learned-sink", "sigmoid", "relu")
loaded = {f"{name}.{seed}": load_checkpoint(f"bigram-backcopy.{name}.{seed}") for name in mixers for seed in range(3)}
task = loaded["softmax.0"].task
assert isinstance(task, BigramBackcopy)
measure = DormantHeads.of(task, n=256, seed=0, device=torch.device("cpu"))
batch, kinds = measure.batch, RowKinds.of(measure.batch)
characters = ["_" if one == " " else one for one in (*statement_characters(), "^")]
print("triggers:", *(characters[one] for one in task.triggers()))
shown = tuple(characters[one] for one in batch.given[2])
print(repr("".join(shown)))

# %% [markdown]
# ## Who rests on the first token?
#
# The weight of the first token on rows that are no trigger (share: where the row looks; moved: what it brings) and
# behind triggers, and the norm of its value over the mean of the others. Then the sum of a row of M on both kinds of
# rows, and what goes to a null column where there is one. The last line is what even rows would give the first token.

# %%
for name, one in loaded.items():
    found = {what.removesuffix(".L0H0"): value for what, value in measure(one.model, 0).items()}
    weight = f"share {found['share.first.other']:.2f}, triggers {found['share.first.trigger']:.2f}"
    moved = f"moved {found['moved.first.other']:.2f}   value norm {found['value_norm.first']:.2f}"
    mass = f"row mass {found['row_mass.other']:.2f}, triggers {found['row_mass.trigger']:.2f}"
    null = f"   null {found['null_mass.other']:.2f}" if "null_mass.other" in found else ""
    print(f"{name:15s} {weight}   {moved}   {mass}{null}")
even = kinds.means("even", uniform_first_weight(batch))
print("even rows:     ", f"share {float(even['even.other']):.2f}, triggers {float(even['even.trigger']):.2f}")

# %% [markdown]
# The share of one text, a row of pictures for each seed: a bright first column is a sink.

# %%
tiles = [
    Tile(Pictured(name, name, name, ()), "L0H0", None, read_mixing(one.model, batch.given[2:3])[0].share[0, 0].numpy())
    for seed in range(3)
    for name, one in loaded.items()
    if name.endswith(str(seed)) and not name.startswith("learned-sink")
]
mixing_figure(Board(tuple(tiles), ("L0H0",), shown, 0))

# %% [markdown]
# Three things are not as expected. With the same mixer some models rest on the first token and some do not: the seed
# decides, by the first weights and the batches. (These are the same for all mixers, and the three with a softmax end
# nearly alike: they are hardly three cases.) Sigmoid and ReLU do it, too. Their rows can close, and do so in part (a
# third of what they have behind triggers, or less), but of what is left much may go to the first token. And a null
# column, which holds nothing, gets hardly anything.
#
# ## Does it matter what the first token brings?
#
# If a sink is a place to do nothing, a cut of its column costs nothing. Two cuts, and what they add to the loss in
# nats, on trigger rows and on the others apart: all cells of the first column become 0; or each becomes the mean over
# rows of its kind, so that the first token brings the same to all of them, a constant. Beside it one random cell of
# every row is cut, which behind a trigger may be the one that is copied.


# %%
def losses(logits: torch.Tensor) -> torch.Tensor:
    """On rows that are no trigger, and on triggers."""
    each = cross_entropy(logits.mT, batch.targets, reduction="none")
    return torch.stack([each[kinds.other].mean(), each[kinds.trigger].mean()])


def constant(matrix: torch.Tensor, **_: object) -> torch.Tensor:
    """The first column at its mean over rows of each kind."""
    edited = matrix.clone()
    for rows in (kinds.other, kinds.trigger):
        edited[:, 0, :, 0][rows] = matrix[:, 0, :, 0][rows].mean()
    return edited


# %%
column = column_cells(batch.targets, 0).mask(batch.targets.shape[1])
elsewhere = random_cells(column, torch.Generator().manual_seed(0), seen_cells(column, causal=True))
for name, one in loaded.items():
    with torch.no_grad():
        plain = losses(one.model(batch.given))
        cut, random = (losses(cut_logits(one.model, batch, Head(0, 0), cells)) - plain for cells in (column, elsewhere))
        with one.model.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", constant)]):
            held = losses(one.model(batch.given)) - plain
    said = (f"{kind}: {plain[at]:.3f} cut {cut[at]:+.3f} constant {held[at]:+.3f} random {random[at]:+.3f}"
            for at, kind in enumerate(("other rows", "triggers")))  # fmt: skip
    print(f"{name:15s}", "   ".join(said))

# %% [markdown]
# In most models that rest on the first token a cut is not free, and with softmax it costs no less than with the others:
# what is brought is part of the answer. The value is smaller than others in softmax, larger in the sigmoid and ReLU,
# but not drained. With a constant in its place most of the loss is gone again, so it hardly matters how much each row
# takes: the first token, which is the same in every text, seems to serve as a bias. Some models use it the other way
# round and look at it behind triggers; there a cut costs, and a constant brings most of it back.
#
# So *no sinks without softmax* does not simply hold here, and seeds differ more than mixers do. Nor is it refuted:
# these are short trainings of one layer, whose values were not drained. By mass the sinks of sigmoid and ReLU are
# small, since their rows are; by share they are not. Which of the two is meant decides what one finds.
#
# `headscope train bigram-backcopy --layers 1 --option decoder.position=learned --set stop_at=2` draws the same measures
# over the steps of a training.
