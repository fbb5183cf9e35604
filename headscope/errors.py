"""Every error a user can cause: each says what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 60
"""Longer lists of names help nobody: the caller's advice says where to see them."""


class HeadscopeError(Exception):
    """Base of all errors that a user can cause; its text is one complete message."""


class UnknownNameError(HeadscopeError):
    """A name (of a model, probe, task, run, score) that does not exist."""

    @classmethod
    def of(cls, kind: str, given: str, allowed: Iterable[str], advice: str = "") -> UnknownNameError:
        """Build the message "no <kind> is called ...", suggesting the nearest right name."""
        names = sorted(allowed)
        near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f" Known: {', '.join(names)}." if 0 < len(names) <= _LISTED else ""
        return cls(f"no {kind} is called {given!r}.{hint}{listed}{' ' + advice if advice else ''}")


class ModelError(HeadscopeError):
    """A model that cannot be loaded."""


class UnsupportedError(HeadscopeError):
    """A probe, reading or intervention that this model cannot support; says why."""


class TaskError(HeadscopeError):
    """A task that cannot be built from the given haystack, needle, length or tokenizer."""


class HeadIndexError(HeadscopeError):
    """A head label that cannot be read, or a head that the model does not have."""


class DeviceError(HeadscopeError):
    """A device that this machine does not have."""


class RunError(HeadscopeError):
    """A run folder that cannot be written, read or resumed."""


class ConfigError(HeadscopeError):
    """A setting with an impossible value."""
