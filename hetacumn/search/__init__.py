"""Poses and latents of images under given volumes: grids, competing poses, refinement, the posterior of z.

Public face: :func:`~hetacumn.search.grid.search_grid`, :func:`~hetacumn.search.competing_poses.search_competing`,
:func:`~hetacumn.search.refinement.climb` and :func:`~hetacumn.search.subspace.latent_posterior`.
"""
