"""Scores against a known truth, the Bayes bound, comparisons of two predictions, and reports.

Public API: :mod:`~hetacumn.evaluation.scores` (accuracy, pose errors, FSC of class volumes),
:mod:`~hetacumn.evaluation.heterogeneity` (the metrics of CryoBench), :func:`~hetacumn.evaluation.bound.bayes_bound`,
:func:`~hetacumn.evaluation.comparison.compare_answers` and
:func:`~hetacumn.evaluation.report.make_report`.
"""
