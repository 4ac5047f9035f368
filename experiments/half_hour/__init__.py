"""Half an hour of an accelerator: what goes there, what is measured there, and what comes back. See README.md."""
