"""The `hetacumn` command.

Public API: :func:`~hetacumn.cli.main.main`. A command checks its input, runs a notebook with :mod:`hetacumn.run`, and prints
the command that usually follows.
"""
