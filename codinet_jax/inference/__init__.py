"""From a trained run to answers: folded weights, skipped blocks, exported programs, and what they save."""
