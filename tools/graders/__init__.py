"""A user's task as one grading function, run in child processes; the tracks that come with Vigil."""
