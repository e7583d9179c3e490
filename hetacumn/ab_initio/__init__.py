"""Volumes, poses and latents from images alone: the start of every run."""
