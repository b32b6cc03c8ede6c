"""The three nodes: knowing, deciding, doing."""
