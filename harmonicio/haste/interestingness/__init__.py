"""Interestingness functions: ``f(features, metadata)`` -> score, a float in [0, 1]."""
