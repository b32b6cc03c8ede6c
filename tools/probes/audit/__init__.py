"""The audit of any project folder: what is there, whether it can work, and what could not be looked at."""
