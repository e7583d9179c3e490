"""Other people's programs on the same particles: each is started, watched, bounded in time, and read back.

:mod:`.relion` and :mod:`.cryodrgn` have one function ``run`` each, from a prepared stack to
:class:`~hetacumn.particles.predictions.Predictions`. All read the very images that this package trains on
(:func:`hetacumn.particles.preparation.prepare_stack`), and all are scored by the same code.
"""
