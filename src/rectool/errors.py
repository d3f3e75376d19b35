"""The one error a user sees: a single line that says what is wrong and what to do."""


class RectoolError(Exception):
    """The user's mistake, or a fact of their machine such as a full disk.

    The message is one line. It names the file, row or flag, and the next step. The command line
    prints it as `error: ...` and exits with code 2; nothing is lost and nothing half written.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
