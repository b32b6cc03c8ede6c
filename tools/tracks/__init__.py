"""Tracks: a user's task as one grading function, run in child processes, and the data formats around it."""
