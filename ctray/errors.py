"""The one exception a user may see without a traceback."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the value and the fix.

    Command lines print it as `error: …` and exit with code 2; the service answers 4xx.
    """


class ClusterDiedError(UserError):
    """The Ray cluster of a command died; its process has to end without a word to Ray."""
