"""What acts: jobs, training, generation, evaluation, tracks, probes. Never imports policies."""
