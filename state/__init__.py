"""What is true: records, store, errors, clock. Imports none of our other packages."""
