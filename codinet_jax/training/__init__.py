"""The two stages of section 3.4: optimiser, state, step, evaluation, checkpoints, and the loop over them."""
