"""Prediction of poses, latents, classes and volumes for a whole stack with a trained model.

Public API: :func:`~hetacumn.prediction.predict.run_prediction` takes a
:class:`~hetacumn.prediction.request.PredictionRequest` and returns an :class:`~hetacumn.prediction.answer.Answer`.
"""
