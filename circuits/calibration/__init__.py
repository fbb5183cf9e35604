"""Attention calibration (ACT): find sinks, weaken them in chosen heads, and see whether it helps."""
