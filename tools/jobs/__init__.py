"""Supervised child processes: started once per key, stopped with care, never believed finished without a record."""
