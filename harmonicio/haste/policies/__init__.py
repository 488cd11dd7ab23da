"""Policies: score -> tier. They know nothing of features, and interestingness functions know nothing of tiers."""
