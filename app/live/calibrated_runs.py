"""Calibrated runs of a text (ACT): the chosen heads attend less to their sinks, the first one left as it is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.live.changed_run import ChangedRun, Opened
from app.live.clean_text import capture_heads
from circuits.calibration.act import Act, heads_by_layer
from circuits.calibration.outputs import calibrated
from circuits.calibration.sinks import find_sinks, only_heads
from circuits.policies.policy import applied
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, tap
from headscope.captures import CapturedText
from headscope.heads import Head

_LISTED, _PLACES = 6, 4
_SETTINGS = ActSettings()


@dataclass(frozen=True)
class Calibrating(ChangedRun):
    """Calibrates heads by the default settings; what it notes are the sinks of each."""

    @contextmanager
    def opened(self, heads: Sequence[Head]) -> Generator[Opened, None, None]:
        """The heads' z as calibrated."""
        chosen, found = heads_by_layer(self.clean.model, heads), Opened()

        def note(call: AttentionCall) -> None:
            if call.layer not in chosen:
                return
            sinks_of = find_sinks(only_heads(call, chosen[call.layer]), _SETTINGS)[0]
            for head, sinks in zip(chosen[call.layer], sinks_of, strict=True):
                found.sinks[Head(call.layer, head)] = [int(place) for place in sinks.nonzero()]

        with calibrated(self.clean.model, heads, _SETTINGS), tap(self.clean.model.plain, reader=note):
            yield found

    def captures(self, heads: Sequence[Head]) -> CapturedText:
        """Whole patterns: queries and keys of a calibrated head do not tell where it looks."""
        policy = Act(_SETTINGS, heads_by_layer(self.clean.model, heads))
        with applied(self.clean.model, policy):
            return capture_heads(self.clean.model, self.clean.ids, [], "ablated", whole=True)

    def told(self, opened: Opened, heads: Sequence[Head]) -> tuple[str, ...]:
        """How many heads have sinks to weaken, and where."""
        having = [(head, places) for head, places in sorted(opened.sinks.items()) if places]
        n = len(set(heads))
        if not having:
            return (f"ACT finds no sink besides the first in {n} heads: nothing was changed.",)
        listed = "; ".join(f"{head} at {_places(places)}" for head, places in having[:_LISTED])
        more = f"; and {len(having) - _LISTED} more heads" if len(having) > _LISTED else ""
        return (f"ACT finds sinks besides the first in {len(having)} of {n} heads, by position: {listed}{more}.",)


def _places(places: list[int]) -> str:
    more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
    return ", ".join(map(str, places[:_PLACES])) + more
