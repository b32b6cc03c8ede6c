"""What Vigil would have said and done over a trajectory that somebody recorded."""
