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
# # Cutting the cache by head class
#
# Most heads look at the first tokens and the last ones. If only a few need the rest, the others can do with a short
# cache. Which few? And how would we know? By running the model under the policy, beside as many random heads.

# %%
import numpy as np
import torch

import headscope as hs
from app.figures.policies import assignment_figure
from app.views.policy_heads import Assignment
from circuits.policies.catalog import POLICIES, build_policy
from circuits.policies.evaluation import evaluate
from circuits.policies.head_split import random_split, strongest_split
from circuits.policies.policy import applied
from circuits.policies.results import Arm
from headscope.tasks import build_needles
from headscope.tasks.answers import needle_answers
from probes.census import PROBES, measure
from probes.probe import Bench
from probes.settings import ProbeConfig

# %% [markdown]
# ## What a policy is
#
# For every row of every layer: what it may attend to, and what the cache keeps. It goes through the same door as every
# reading, so it runs on any model whose attention does, for the prompt and for decoding alike. Some drop keys for good
# (`cache`), some keep all and look at a few (`sparse`), some change the weights (`softmax`).

# %%
for kind in POLICIES.values():
    print(f"{kind.name:16s} {kind.family:8s} {kind.summary}")

# %% [markdown]
# StreamingLLM keeps the first four tokens and the last 28, in every head. The tally counts what the cache would hold
# after the last token, and how many keys were looked at on the way.

# %%
model = hs.load("smollm2")
text = torch.tensor([model.encode("The quick brown fox jumps over the lazy dog. " * 12, bos=True)])
with applied(model, build_policy(model, "streaming", {"sink": 4, "recent": 28})) as opened:
    model.logits(text, rows=torch.tensor([text.shape[1] - 1]))
tally = opened.tally
print(f"{text.shape[1]} tokens, of which every head keeps {tally.table(1)[0, 0]:.0f}: {tally.kv_bytes / 1e6:.2f} MB")
print(f"keys attended: {tally.share_attended:.0%} of those of full attention")

# %% [markdown]
# ## Which heads need everything?
#
# Those that fetch facts from far back: the retrieval score of the key/value heads (a group counts by its strongest
# query head), from four needle prompts. Framed: the tenth of them that will keep everything.

# %%
bench = Bench(model, ProbeConfig(lengths=(192,), needle_examples=4))
(retrieval, *_), _ = measure(bench, PROBES["retrieval"])
split = strongest_split(retrieval, 0.1)
print(f"{split.count} of {split.full.size} key/value heads keep everything")
duo = Arm("duo", share=0.1, rule="retrieval")
assignment_figure(Assignment(arm=duo, full=split.full, scores=retrieval.by_kv_head()))

# %% [markdown]
# ## And are these the ones?
#
# Needle prompts from a part of the text that no head was scored on. Every other head keeps 32 of about 200 tokens. The
# control: as many heads, drawn at random, in the same bytes.

# %%
needles = build_needles(model, bench.held_out, length=192, n=4, generator=torch.Generator().manual_seed(1))
batch = needle_answers(needles)
random = random_split(model.shape.n_layers, model.shape.n_kv_heads, 0.1, np.random.default_rng(0))
for name, chosen in (("full", None), ("streaming", None), ("duo", split), ("duo", random)):
    settings = {} if name == "full" else {"sink": 4, "recent": 28}
    arm = Arm(name, settings, rule="" if chosen is None else chosen.rule)
    found = evaluate(model, arm, batch, task="needle", policy=build_policy(model, name, settings, chosen))
    print(f"{name:10s} {arm.rule:24s} cache {found.share_kept:5.0%}   accuracy {found.values.mean():.2f}")

# %% [markdown]
# A tenth of the heads brings back much of what the short cache lost, and a random tenth next to nothing. Four prompts
# are few, though, and one random draw is one. `headscope policies smollm2` runs more of both, more lengths and
# policies, trains DuoAttention's gates, and writes the intervals. What was seen at 2,000 and 4,000 tokens is in
# `docs/results/policies.md`.
