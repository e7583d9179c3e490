"""Particles: their metadata, images, preprocessing, prepared stacks, observations and predictions.

Public face: :func:`~hetacumn.particles.preparation.prepare_stack` makes a
:class:`~hetacumn.particles.prepared_stack.PreparedStack`; :class:`~hetacumn.particles.metadata.ParticleMetadata` is the
one record of particles; :func:`~hetacumn.particles.observations.observe` packs images for the likelihood;
:class:`~hetacumn.particles.predictions.Predictions` holds what was found.
"""
