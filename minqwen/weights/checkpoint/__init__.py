"""A checkpoint's files: found, fetched, checked, laid out."""
