"""Checks of rows alone: iterables of texts in, findings out. No file, no model, no tokenizer, no clock."""
