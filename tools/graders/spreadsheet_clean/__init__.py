"""The first shipped track: clean a messy quarterly table without losing, inventing or disguising a row."""
