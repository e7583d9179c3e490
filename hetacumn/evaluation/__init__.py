"""Scores against a known truth, the Bayes bound, comparisons and reports."""
