"""Packages that stand in for trackers, for a machine without them; `trackio` keeps its rows as the real one does."""
