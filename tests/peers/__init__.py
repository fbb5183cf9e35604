"""Mixers and positions beside other implementations of the same, in an environment of their own: ``make peers``."""
