"""The start of training: volumes, poses and latents from images alone, from given poses, or from a reference map.

A symmetry of the consensus volume is relaxed (:mod:`~hetacumn.ab_initio.relaxation`).

Public interface: :func:`~hetacumn.ab_initio.number_of_states.ab_initio` computes a
:class:`~hetacumn.ab_initio.start.Start` from images alone, with the settings of
:class:`~hetacumn.ab_initio.config.AbInitioConfig`. :func:`~hetacumn.ab_initio.guided.guided_start` also uses given poses or a
reference map. :mod:`~hetacumn.ab_initio.start` reads and writes the file of a start.
"""
