"""The promise of docs/guarantees.md, checked by simulation: whole clusters in one thread, on a seeded network, disk and
clock, under faults, with an auditor that shares no code with the product.

What runs is the product itself: the master's service with backlog and data port, workers' services, engines' daemons
and stream connectors, with all their threads and locks. :mod:`simulation.stage` gives them our threads, sockets and
clocks in place of the machine's; each other module here says at its beginning what it stands for. A run depends on
nothing but its seed, so what is found once can be looked at as often as one likes:

    make simulate RUNS=10000        many seeds: violations, and hits for each kind of fault and each move of a state
    make simulate SEED=4711         one of them, with the trace of the messages in question

Times are the product's but three: ``RESERVATION_MARGIN_S`` is mostly a few seconds, as schedules draw it, so that
reservations expire within a run; ``PARKED_S`` of a connector and ``TICK_S`` of a worker are longer, which saves half of
all calls.

What is not simulated: SQLite (``tests/unit/master`` and the chaos tests have that), HTTP and JSON beyond plain
records, bearer tokens, containers, files of source applications, streaming handlers, TLS.
"""
