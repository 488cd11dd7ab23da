"""The worker: a host with engines, and the one process that manages them.

controller   decides (pure)            runtimes/     start, kill and find engines
reporter     talks to the master       containers/   engines in containers: permits, images, the Docker engine
log_reader   answers who asks          service       owns all of it
"""
