"""Evaluation: prompts, batched generation, grading, the census of gold answers, and the harness fingerprint."""
