"""Runs of other programs (RELION, cryoDRGN, RECOVAR) on the particles that HetACUMN is trained on, for comparison.

:mod:`.relion` and :mod:`.cryodrgn` each have one function ``run``. It starts the program within a time limit, and reads the
output as :class:`~hetacumn.particles.predictions.Predictions`. Both programs read the prepared images
(:func:`hetacumn.particles.preparation.prepare_stack`) that HetACUMN reads, and :mod:`hetacumn.evaluation.scores` scores the
predictions of all programs.

:mod:`.recovar` and :mod:`.cryodrgn` also run programs at the poses in the particle table: ``embed`` returns the latents of the
images, and ``make_volumes`` returns volumes at latents.
"""
