"""Poses, latents, classes and volumes of whole stacks under a model."""
