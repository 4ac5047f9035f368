"""What is the user's to fix."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do about it."""


class Diverged(InputError):
    """A loss or a gradient is no finite number any more; on several hosts it is so on all of them."""
