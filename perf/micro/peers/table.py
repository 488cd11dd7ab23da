"""Which peers there are. To add one: a module, and a line here."""

from micro.peers import (
    dask_tasks,
    grpc_stream,
    http_flask,
    nats_server,
    rabbitmq,
    ray_actors,
    redis_streams,
    zeromq,
)

PEERS = (
    zeromq.PUSH_PULL,
    zeromq.DEALER_ROUTER,
    grpc_stream.STREAM,
    redis_streams.STREAMS,
    nats_server.REQUEST_REPLY,
    nats_server.JET_STREAM,
    rabbitmq.QUEUE,
    http_flask.FLASK,
    ray_actors.ACTORS,
    dask_tasks.TASKS,
)
