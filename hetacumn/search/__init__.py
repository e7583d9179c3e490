"""Poses and latents of images under given volumes: grids, competing poses, refinement, the posterior of z."""
