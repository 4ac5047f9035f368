"""The network: its shape as plain data, what it costs, its parts, and how gated blocks are executed."""
