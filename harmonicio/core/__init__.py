"""The words of the system: names, messages, streams, engines, leases, errors, settings and clocks.

Nothing here does I/O, starts a thread or imports another room of the house.
"""
