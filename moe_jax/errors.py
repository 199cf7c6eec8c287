"""The base of every error that is the user's to mend: a config, an argument, a file.

The command line prints its message and nothing else. Whatever is not a `UserError` is a defect of
ours (or of a library), and shows where it happened.
"""


class UserError(ValueError):
    """Something the user gave does not fit: the message has the values, the rule and the remedy."""
