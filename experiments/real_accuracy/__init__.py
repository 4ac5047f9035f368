"""Trained CIFAR-10 ResNets made dynamic: gates that rank images, their rivals and their controls, at equal cost.

Whatever differs between methods is data (`gates.Knobs`, run rates by block), so that all of them share one compiled
training step for each network. Letters in array names are those of `codinet_jax`, and K views in the pool of an image,
S steps in a call.
"""
