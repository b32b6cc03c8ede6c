"""The commands of `vigil`, by what they do: run, look, answer, make. Imports beyond click are late."""
