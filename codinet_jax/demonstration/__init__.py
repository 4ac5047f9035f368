"""A page on this machine where a trained network is played with; shows what inference answers and evaluation kept."""
