"""The machine that a night runs on: its power, sleep, heat and clock, as its own programs and files tell."""
