"""What a change of the model did to one text, and where that lies among random sets of as many heads."""

from __future__ import annotations

from dataclasses import dataclass

from app.views.lab import LabView
from app.views.table import Column, Table


@dataclass(frozen=True)
class Effect:
    """One number before and after the change.

    Attributes:
        name: short name.
        title: for people.
        unit: its unit.
        clean: of the untouched model.
        ablated: of the changed run.
        random: of each random set's.
        changed: what the changed run is called.
    """

    name: str
    title: str
    unit: str
    clean: float
    ablated: float
    random: tuple[float, ...]
    changed: str = "ablated"

    @property
    def change(self) -> float:
        """Changed minus untouched."""
        return self.ablated - self.clean

    @property
    def changed_less(self) -> int:
        """Random sets that change the number less, whichever way."""
        return sum(abs(value - self.clean) < abs(self.change) for value in self.random)

    @property
    def sentence(self) -> str:
        """``19 of 20 random sets change it less.``; empty without random sets."""
        n = len(self.random)
        return f"{self.changed_less} of {n} random {'set changes' if n == 1 else 'sets change'} it less." if n else ""


def effects(view: LabView) -> tuple[Effect, ...]:
    """Logit difference and KL at the position, and the mean loss of the text; none without a changed run."""
    result = view.result
    if result.ablated is None or result.kl is None:
        return ()
    sets = result.random_sets
    logit_diff = Effect(
        "logit_diff", "Logit of A minus B", "logits", result.clean.logit_diff, result.ablated.logit_diff,
        tuple(one.logit_diff for one in sets), view.changed,
    )  # fmt: skip
    kl = Effect(
        "kl", "KL from the untouched model", "nats", 0.0, result.kl, tuple(one.kl for one in sets), view.changed
    )
    if result.n_tokens == 1:
        return logit_diff, kl
    clean, ablated = result.clean.mean_loss, result.ablated.mean_loss
    random = tuple(one.loss for one in sets)
    return logit_diff, kl, Effect("loss", "Mean loss", "nats per token", clean, ablated, random, view.changed)


_COLUMNS = (
    Column("run", "Run"),
    Column("heads", "Heads"),
    Column("logit_diff", "A minus B", 3, "logits"),
    Column("logit_diff_change", "Change", 3, "logits; minus the untouched model's"),
    Column("kl", "KL", 4, "nats; of the untouched prediction from this one"),
    Column("loss", "Loss", 4, "nats per token, mean over the text"),
)


def effect_table(view: LabView) -> Table:
    """A row for the untouched model, one for the heads asked for, one per random set."""
    result = view.result
    base = result.clean.logit_diff
    rows = [("untouched", "", base, 0.0, 0.0, result.clean.mean_loss)]
    if result.ablated is not None and result.kl is not None:
        after = result.ablated
        heads = " ".join(view.request.heads)
        rows.append((view.changed, heads, after.logit_diff, after.logit_diff - base, result.kl, after.mean_loss))
    for number, one in enumerate(result.random_sets, 1):
        change = one.logit_diff - base
        rows.append((f"random {number}", " ".join(one.heads), one.logit_diff, change, one.kl, one.loss))
    return Table(f"Untouched, {view.changed}, and random sets of as many heads", _COLUMNS, tuple(rows), view.meta)
