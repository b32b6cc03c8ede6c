"""Stands in for trackio where that is not installed: the two calls that are used, on a table like its own."""
