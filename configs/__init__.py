"""One file a configuration; each is `default.py` and a few changed lines, and takes a variant's name."""
