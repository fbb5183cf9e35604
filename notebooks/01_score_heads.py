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
# # Score the heads of a model, and test the scores
#
# Three questions, in order: which heads look like induction heads, does the model need them, and would any other heads
# have done? The first model here has hand-set weights, so the answers are known; the second is a real one.

# %%
import torch

import headscope as hs
import probes
from circuits import Ablation, ablate, validate
from headscope.heads import Head
from headscope.tasks import build_repeated
from probes.probe import Bench, ProbeConfig

# %% [markdown]
# ## A model whose heads are known
#
# `planted:all` holds one head of each kind among random ones. Its previous-token head and its induction head were
# written by hand: see `headscope/models/planted/wiring.py` for how.

# %%
planted = hs.load("planted:all")
print(planted.card)

# %%
config = ProbeConfig(repeated_examples=8, needle_examples=6, lengths=(256,))
induction = probes.score(planted, "induction", config)
induction

# %%
induction.plot()

# %% [markdown]
# One head reaches the threshold. The retrieval head comes second: it is an induction head for the few words that
# answers are made of.

# %%
print("induction heads:", [str(head) for head in induction.members()])
print("retrieval heads:", [str(head) for head in probes.score(planted, "retrieval", config).members()])

# %% [markdown]
# ## Does the model need it?
#
# Zero-ablating the head must raise the loss on the second copy of repeated tokens; equally many random heads of the
# same layer must not.

# %%
check = validate(Bench(planted, config), induction, draws=20)
for point in check.points:
    print(
        f"k={point.k}: loss {check.baseline:.3f} -> {point.value:.3f} [{point.low:.3f}, {point.high:.3f}]; "
        f"random heads {point.random_mean:.3f}; p = {point.p_value:.3f}"
    )

# %% [markdown]
# ## A real model
#
# SmolLM2-135M-Instruct, 30 layers of 9 heads that share 3 key/value heads (4-bit weights, dequantised).

# %%
model = hs.load("smollm2")
scores = probes.score(model, "induction", ProbeConfig(repeated_examples=8))
scores.top(10)

# %% [markdown]
# The same score by key/value head: what a cache policy would act on.

# %%
grouped = scores.by_kv_head()
print("strongest key/value groups:", [f"L{head.layer}KV{head.head}" for head in grouped.ranked()[:5]])

# %% [markdown]
# Any head can be ablated by hand, inside a `with` block only.

# %%
task = build_repeated(model, n=4, period=20, copies=2, generator=Bench(model).generator("notebook"))


def second_copy_loss() -> float:
    """Mean cross-entropy on the second copy."""
    logits = model.logits(task.tokens)[:, task.start + task.period : -1]
    targets = task.tokens[:, task.start + task.period + 1 :]
    return float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets))


print(f"untouched: {second_copy_loss():.2f}")
for how in (Ablation.ZERO, Ablation.UNIFORM, Ablation.TO_BOS):
    with ablate(model, [Head(18, 6), Head(17, 4)], how):
        print(f"{how.value:>8}: {second_copy_loss():.2f}")
