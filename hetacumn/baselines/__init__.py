"""Other programs on the same particles: each program is started, watched, bounded in time, and its answer is read.

:mod:`.relion` and :mod:`.cryodrgn` have one function ``run`` each, from a prepared stack to
:class:`~hetacumn.particles.predictions.Predictions`. Both programs read the images that this package trains on
(:func:`hetacumn.particles.preparation.prepare_stack`), and the same code scores all.
"""
