"""Model folders and hub ids: what they hold, whether they are one coherent set, and their identity."""
