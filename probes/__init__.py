"""OBSERVE: score every head. Probes never change a forward pass."""

from probes.census import PROBES, census, find_probe, score, score_all
from probes.probe import ProbeConfig

__all__ = ["PROBES", "ProbeConfig", "census", "find_probe", "score", "score_all"]
