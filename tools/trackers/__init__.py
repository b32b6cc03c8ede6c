"""What other programs plot: a campaign's step metrics and verdicts as rows, and the trackers that take them."""
