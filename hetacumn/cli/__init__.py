"""The `hetacumn` command.

Public face: :func:`~hetacumn.cli.main.main`. A command checks its input, runs a notebook by :mod:`hetacumn.run`, and prints
the command that usually follows.
"""
