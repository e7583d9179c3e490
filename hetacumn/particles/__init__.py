"""Particles: their metadata, images, preprocessing, prepared stacks, observations and predictions."""
