"""Training small decoders on tasks that separate mixers."""
