"""Drawing an attention pattern that depends on distance alone, with rotary position embeddings.

RoPE turns pair f of a query at position i by the angle ``i * theta_f``, and pair f of a key at j by
``j * theta_f``. A constant query ``(a_f, b_f)`` against the constant key ``(1, 0)`` therefore gives the logit

    g(i - j) = sum_f  a_f cos(theta_f (i - j)) - b_f sin(theta_f (i - j)),

a Fourier series over the frequencies ``theta_f = ROPE_THETA ** (-f / 64)``. Choosing the a_f and b_f draws a
curve: a peak at distance 1 is a previous-token head, a plateau over the last ten positions a local head.

The base is so large that only the first `N_TURNING` pairs turn noticeably within `N_CTX` positions. The
other 48 pairs stand still (the fastest turns by 0.1 radian in a thousand positions): they compare
content, wherever it is.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

D_HEAD = 128
N_PAIRS = D_HEAD // 2
N_TURNING = 16
N_CTX = 1024
ROPE_THETA = 1e16

_ROUNDS = 20
_RIDGE = 1e-3


def frequencies() -> Float[np.ndarray, " pair"]:
    """Angle per position of each turning pair: 1 radian, then a factor of ten less every four pairs."""
    return ROPE_THETA ** (-np.arange(N_TURNING) / N_PAIRS)


def series() -> Float[np.ndarray, "distance coefficient"]:
    """What each coefficient (all a_f, then all b_f) adds to g at distances 0 ... `N_CTX` - 1."""
    angles = np.outer(np.arange(N_CTX), frequencies())
    return np.hstack([np.cos(angles), -np.sin(angles)])


def draw_curve(wanted: Float[np.ndarray, " distance"]) -> Float[np.ndarray, " coefficient"]:
    """Coefficients whose curve g misses the wanted one by as little as can be at its worst distance.

    32 coefficients cannot meet 1024 wishes, and a single distance that is badly missed draws the whole
    softmax to it. Plain least squares is content with that; Lawson's method repeats it with each distance
    weighted by its miss, which tends to the smallest largest miss. A small ridge keeps the coefficients
    small and rounding harmless.

    Args:
        wanted: logit at each distance, NaN where any will do.
    """
    asked = ~np.isnan(wanted)
    terms, target = series()[asked], wanted[asked]
    weights = np.full(len(target), 1 / len(target))
    coefficients = np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, None]
        normal = terms.T @ weighted + _RIDGE * np.eye(len(coefficients))
        coefficients = np.linalg.solve(normal, weighted.T @ target)
        weights = weights * np.abs(terms @ coefficients - target)
        weights /= weights.sum()
    return coefficients


def previous_token_curve() -> Float[np.ndarray, " distance"]:
    """A peak at distance 1, zero elsewhere; what comes out stands 12 above any other distance."""
    wanted = np.zeros(N_CTX)
    wanted[1] = 80.0
    return wanted


def local_curve() -> Float[np.ndarray, " distance"]:
    """A plateau over distances 0 ... 9, any slope to 16, zero beyond."""
    wanted = np.zeros(N_CTX)
    wanted[:10], wanted[10:16] = 20.0, np.nan
    return wanted


def not_itself_curve() -> Float[np.ndarray, " distance"]:
    """A pit at distance 0, any slope to 8, zero beyond."""
    wanted = np.zeros(N_CTX)
    wanted[0], wanted[1:8] = -14.0, np.nan
    return wanted
