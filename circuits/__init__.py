"""INTERVENE: change the forward pass and measure what happens."""

from circuits.interventions import Ablation, Reference, ablate
from circuits.validation import validate

__all__ = ["Ablation", "Reference", "ablate", "validate"]
