"""The master: the directory of workers and engines, the leases on them, and the backlog."""
