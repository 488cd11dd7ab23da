"""The worker: a host with engines, and the one process that manages them.

controller   decides (pure)            runtimes/   start, kill and find engines
reporter     talks to the master       service     owns all of it
"""
