"""The one exception a user may see without a traceback."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the value and the fix.

    Command lines print it as `error: …` and exit with code 2; the service answers 4xx. The sentence
    is the library's and knows no command line: a front door adds its own options for `arguments`.

    Args:
        text: the sentence.
        arguments: names of the arguments or settings that the fix is about, such as `out`.
    """

    def __init__(self, text: str, *arguments: str) -> None:
        # All of it goes to Exception, which is what travels between Ray's processes.
        super().__init__(text, *arguments)
        self.arguments = arguments
        # What a front door calls them; set where the error leaves it.
        self.options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterDiedError(UserError):
    """The Ray cluster of a command died; its process has to end without a word to Ray."""
