"""Volumes, poses and latents from images alone: the start of every run.

Public face: :func:`~hetacumn.ab_initio.routes.ab_initio` makes a :class:`~hetacumn.ab_initio.start.Start` with the settings of
:class:`~hetacumn.ab_initio.config.AbInitioConfig`; :mod:`~hetacumn.ab_initio.start_files` keeps it on disk.
"""
