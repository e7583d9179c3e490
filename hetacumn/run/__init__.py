"""Runs: notebooks, their folders and locks, the Python front door, exploration.

Public face: :mod:`~hetacumn.run.api`, which ``import hetacumn`` offers; :func:`~hetacumn.run.notebook.run_notebook`;
:class:`~hetacumn.run.explorer.Explorer`.
"""
