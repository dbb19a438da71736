"""The feature folder: write, read, status, verify, merge."""
