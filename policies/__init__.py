"""What decides: pure functions, values in, a decision out. Never imports tools or the store."""
