"""Simulation of particle stacks with known truth from atomic models.

Main entry point: :func:`~hetacumn.simulation.simulate.simulate_stack` writes a stack with the settings of
:class:`~hetacumn.simulation.settings.Simulation` and returns its :class:`~hetacumn.simulation.truth.Truth`.
"""
