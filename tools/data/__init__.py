"""Rows of files: read once, told apart, judged strictly or counted however broken they are."""
