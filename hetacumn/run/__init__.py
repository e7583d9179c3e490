"""Runs: the Python API, the execution of notebooks in locked folders, and interactive exploration.

Public API: :mod:`~hetacumn.run.api`, whose functions ``import hetacumn`` provides; :func:`~hetacumn.run.notebook.run_notebook`;
:class:`~hetacumn.run.explorer.Explorer`.
"""
