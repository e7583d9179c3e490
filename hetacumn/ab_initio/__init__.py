"""The *ab initio* start: volumes, poses and latents from images alone.

Public interface: :func:`~hetacumn.ab_initio.number_of_states.ab_initio` computes a
:class:`~hetacumn.ab_initio.start.Start` with the settings of :class:`~hetacumn.ab_initio.config.AbInitioConfig`;
:mod:`~hetacumn.ab_initio.start` also reads and writes it.
"""
