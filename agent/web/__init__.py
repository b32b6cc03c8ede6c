"""`vigil web`: the record as pages for a browser, on this machine first, and answers to its questions."""
