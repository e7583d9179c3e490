"""Search for the poses and latents of images under known volumes.

The sub-package contains pose grids, a competition between poses, Gauss-Newton refinement, the closed-form posterior of z,
clusters of z, the focus on a mask (:mod:`~hetacumn.search.focus`), and the initial information of a run
(:mod:`~hetacumn.search.initial`).

Public interface: :func:`~hetacumn.search.grid.search_grid`, :func:`~hetacumn.search.competing_poses.search_competing`,
:func:`~hetacumn.search.refinement.climb` and :func:`~hetacumn.search.subspace.latent_posterior`.
"""
