"""The registry's entries, a module for each family: `ENTRIES`, and `MIXERS`, where each mixer's class is."""
