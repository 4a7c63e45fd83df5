"""The one exception for a mistake that the person at the keyboard can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was expected, found and to do.

    Library code raises it; `common.command.main` prints its message to standard error without
    a traceback and exits with status 2. Only put in the message what helps to mend the mistake.
    """
