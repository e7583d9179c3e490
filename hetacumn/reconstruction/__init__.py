"""Volumes from posed images.

Public face: :func:`~hetacumn.reconstruction.back_projection.back_project`.
"""
