"""What tests of HarmonicIO and of its plugins build on: doubles, contract suites, and a check for leaks.

Nothing in the product imports this room.
"""
