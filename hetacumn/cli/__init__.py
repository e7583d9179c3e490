"""The `hetacumn` command.

Public face: :func:`~hetacumn.cli.main.main`. A command checks its input, runs a notebook of :mod:`hetacumn.run`, and names the
command that usually follows.
"""
