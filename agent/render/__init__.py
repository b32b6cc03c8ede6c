"""What people read: the record as tables, sentences, JSON and pages. Nothing here writes to a campaign."""
