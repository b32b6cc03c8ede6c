"""Probes: each settles one claim about one subject, cheapest first, and says what would refute it."""
