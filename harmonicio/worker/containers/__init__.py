"""Engines in containers: what one may have, what it is made of, and the Docker engine that keeps it.

permits        what this host lets a stream have (pure)      docker_host      the Docker engine, in our words
container_plan what a container is made of (pure)            docker_records   images, builds, events
image_name     names and patterns (pure)                     docker_words     what it says, and how far a pull is
image_shelf    images, pulled if need be                     docker_log       logs by marks
image_builder  images that say what they are                 docker_watch     its events, also across its restarts
host_folders   the folders that a stream names               scratch_volumes  bounded space for what is left of memory
container_maker  joins them: an engine's container, made and not yet started

The runtime that starts and watches them is a member like the others: :mod:`harmonicio.worker.runtimes.docker`.
"""
