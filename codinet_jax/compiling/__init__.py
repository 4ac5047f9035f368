"""The real programs compiled for accelerators that are not here, and what can be read off the result."""
