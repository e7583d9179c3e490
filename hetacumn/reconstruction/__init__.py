"""Reconstruction of volumes from posed images.

Public interface: :func:`~hetacumn.reconstruction.back_projection.back_project`,
:func:`~hetacumn.reconstruction.reconstruct.reconstruct_groups` and :func:`~hetacumn.reconstruction.masks.write_mask`.
"""
