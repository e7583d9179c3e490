"""What the package raises when the input, not the program, is at fault."""


class HetacumnError(Exception):
    """The user's own mistake: a bad file, row or parameter.

    The message is one line: what is wrong, where (file, row), and what was expected. `hetacumn.run` prints
    it without a traceback. Subclasses belong in this module, where the runner looks for them.
    """
