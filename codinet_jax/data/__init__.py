"""Image sets from TFDS in, batches and augmented views out."""
