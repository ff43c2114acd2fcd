"""Applications built on theus's public API alone, to run and to read."""
