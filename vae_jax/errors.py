"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A setting, flag or file that the user has to change.

    The message says what was given, where, and what is allowed. The command
    lines print it alone, without a traceback; everything else that is raised is
    a defect of the program.
    """
