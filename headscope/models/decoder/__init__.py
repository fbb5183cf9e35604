"""A small decoder that takes any mixer: its settings, and the axes that compose with the mixer."""
