"""Reconstruction of volumes from posed images.

Public interface: :func:`~hetacumn.reconstruction.back_projection.back_project`.
"""
