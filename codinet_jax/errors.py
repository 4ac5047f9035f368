"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do about it."""
