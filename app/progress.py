"""Progress on standard error: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from app.plain_text import clean

_LINE_EVERY_S = 10.0


class Progress:
    """The `Listener` of the command line; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_terminal = bool(sys.stderr and sys.stderr.isatty()) and not self._console.is_dumb_terminal
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._label, self._started, self._last = "", time.monotonic(), 0.0

    def __enter__(self) -> Progress:
        if self._is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_stage()
        if self._is_terminal:
            self._bars.stop()

    def stage(self, name: str, index: int, count: int) -> None:
        """A stage begins; the one before is done."""
        self._end_stage()
        self._label = clean(f"[{index}/{count}] {name}" if count else name)
        self._started = self._last = time.monotonic()
        if self._is_terminal:
            self._task = self._bars.add_task(self._label, total=None)
        else:
            self.say(f"{self._label} ...")

    def step(self, done: int, total: int) -> None:
        """The stage has come this far."""
        now = time.monotonic()
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif now - self._last > _LINE_EVERY_S and done < total:
            self._last = now
            left = (now - self._started) / max(done, 1) * (total - done)
            self.say(f"{self._label}: {done}/{total}, about {left:.0f} s left")

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(Text(clean(message)))

    def _end_stage(self) -> None:
        if not self._label:
            return
        seconds = time.monotonic() - self._started
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self.say(f"{self._label}: {seconds:.1f} s")
        self._label = ""
