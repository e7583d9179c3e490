"""Simulated particle stacks with known truth, from atomic models.

Public face: :func:`~hetacumn.simulation.simulate.simulate_stack` makes a stack with the settings of
:class:`~hetacumn.simulation.settings.Simulation`, and returns its :class:`~hetacumn.simulation.truth.Truth`.
"""
