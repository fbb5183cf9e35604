"""How numbers are written, everywhere: fixed decimals, intervals as [low, high], "exact" without one."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

MISSING = "n/a"
EXACT = "exact"
NO_BREAK = "\u00a0"


def decimals_of(values: Float[np.ndarray, "*shape"]) -> int:
    """Decimals that suit a whole table of values: 3 below 10, 2 below 100, 1 from there on."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return 3 if largest < 10 else 2 if largest < 100 else 1


def fixed(value: float, decimals: int = 3) -> str:
    """``value`` with exactly ``decimals`` decimals and no negative zero; "n/a" for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def signed(value: float, decimals: int = 3) -> str:
    """As `fixed`, with a plus sign before what is not negative: a change."""
    text = fixed(value, decimals)
    return text if text == MISSING or text.startswith("-") else f"+{text}"


def interval(low: float, high: float, decimals: int = 3) -> str:
    """``[low, high]``, or "exact" where the value has no sampling error (NaN ends)."""
    if math.isnan(low) or math.isnan(high):
        return EXACT
    return f"[{fixed(low, decimals)}, {fixed(high, decimals)}]"


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with one decimal and a space that does not break: ``8.1 %``."""
    return MISSING if math.isnan(share) else f"{100 * share:.1f}{NO_BREAK}%"


def p_text(p: float) -> str:
    """A p value with three decimals, in powers of ten where that would read 0.000."""
    return fixed(p, 3) if math.isnan(p) or p >= 0.001 else f"{p:.0e}"


def plain(value: float) -> str:
    """A setting such as a threshold, as short as it is exact: ``0.1``, ``32``."""
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds for people: ``4.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def file_size(size: int | None) -> str:
    """Bytes in decimal units: ``820 B``, ``12.4 kB``, ``3.1 MB``."""
    if size is None:
        return MISSING
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
