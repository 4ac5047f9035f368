"""The paper's tables and figures, other networks on the same footing, and what we measured; run from the repository's
root: see run.py and summarize.py, real_accuracy/, measure/ and half_hour/."""
