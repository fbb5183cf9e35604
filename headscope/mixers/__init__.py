"""Mixers: ways to compute the mixing matrix of every head that can be trained, and the registry of variants."""
