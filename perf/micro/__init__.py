"""Measurements of the data plane and the backlog, each beside its limit.

    python -m micro p2p latency --sizes 1KB,1MB        (with PYTHONPATH=perf; `make perf` runs all)

One module for each bench, with a function ``measure(effort)`` that yields rows; the rest is shared:

    sizes      sizes, windows, how many messages           pairs      interleaved pairs, medians, quartiles
    row        one measured figure beside its limit        report     JSON and Markdown of rows
    plot       a drawing of rows                           machine    what the figures depend on
    cluster    a cluster with engines that do nothing      source     what runs in the source's process
    raw_tcp    the limit of all that goes over TCP         peers/     other systems on the same work
    tls        over TLS, and its limit

Rules:

- A figure stands beside its limit, measured in the same run: a pair is one run of ours and one of the limit, in turn.
- The source is a process of its own, on both sides, with the same window; both are warm when the time begins.
- Nothing is judged by time: who runs it short (``--smoke``) learns only whether it runs.
"""
