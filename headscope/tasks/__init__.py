"""Token batches with known answers: what probes and interventions are run on."""

from headscope.models.protocol import Needle
from headscope.tasks.haystack import load_haystack
from headscope.tasks.needle import NEEDLES, NeedleBatch, build_needles
from headscope.tasks.prose import build_prose
from headscope.tasks.repeated import RepeatedTokens, build_repeated

__all__ = [
    "NEEDLES",
    "Needle",
    "NeedleBatch",
    "RepeatedTokens",
    "build_needles",
    "build_prose",
    "build_repeated",
    "load_haystack",
]
