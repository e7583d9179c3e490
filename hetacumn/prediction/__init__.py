"""Poses, latents, classes and volumes of whole stacks under a model.

Public face: :func:`~hetacumn.prediction.predict.run_prediction` makes an :class:`~hetacumn.prediction.answer.Answer` to a
:class:`~hetacumn.prediction.request.PredictionRequest`.
"""
