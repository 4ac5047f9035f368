"""Every table and figure of the paper, as networks to train and numbers to report; nothing here is a command."""
