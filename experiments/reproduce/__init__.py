"""Every table and figure of the paper, as networks to train and numbers to tell; nothing here is a command."""
