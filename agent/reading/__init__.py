"""Reading commands: what is on record, as tables, sentences and JSON. Nothing here writes."""
