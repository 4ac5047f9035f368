"""Scripts that measure: each prints what it saw, with the machine it saw it on."""
