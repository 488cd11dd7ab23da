"""Measurements spawn processes."""

from multiprocessing import resource_tracker

# Python starts it with the first process that is spawned, and keeps it to its own end: it is nobody's leak.
resource_tracker.ensure_running()
