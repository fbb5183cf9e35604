"""What a circuit method and its scores are called for people."""

from __future__ import annotations

from circuits.circuit_scores import CircuitScores
from circuits.methods import METHODS


def title(method: str) -> str:
    """A method's name for people; its own where this version does not know it."""
    return METHODS[method].title if method in METHODS else method


def unit_text(scores: CircuitScores) -> str:
    """What a score is measured in, for people."""
    is_difference = scores.options.get("measure") == "logit_difference"
    return "nats" if scores.unit == "measure" and is_difference else scores.unit


def no_edges(method: str) -> str:
    """Why a method has no edges to show."""
    return (
        f"{title(method)} scores heads, not edges, so no edge is drawn. Choose circuits of heads, or a method that "
        "scores edges."
    )
