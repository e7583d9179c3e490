"""Particles: metadata, images, preprocessing, prepared stacks, observations and predictions.

Main entry points: :func:`~hetacumn.particles.preparation.prepare_stack` writes a
:class:`~hetacumn.particles.prepared_stack.PreparedStack`; :class:`~hetacumn.particles.metadata.ParticleMetadata` contains the
optics and poses of particles; :func:`~hetacumn.particles.observations.observe` computes Fourier coefficients;
:class:`~hetacumn.particles.predictions.Predictions` contains predicted poses, classes and latents.
"""
