"""Tiers: named stores of a data hierarchy."""
