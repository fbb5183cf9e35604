"""Readings: questions about the mixing matrix M of every head, with or without building it."""

from headscope.readings.dense import DenseReading
from headscope.readings.flash import FlashReading
from headscope.readings.greedy import greedy_top_keys
from headscope.readings.interface import Method, Reading
from headscope.readings.running import read

__all__ = ["DenseReading", "FlashReading", "Method", "Reading", "greedy_top_keys", "read"]
