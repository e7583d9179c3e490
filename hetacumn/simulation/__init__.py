"""Simulated particle stacks with known truth, from atomic models."""
