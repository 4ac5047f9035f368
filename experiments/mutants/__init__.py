"""Faults that a programmer could make, one at a time, and the tests that should notice each."""
