"""The I/O skins of the wire: blocking sockets, one thread per connection while there are bytes.

channel   one ordered byte stream with deadlines: what every skin offers
tcp       channels over TCP: dial and listen
memory    channels inside one process, for tests
link      a wire connection on a channel
data_port a listener, its idle connections and the threads that serve the busy ones
thread_pool   a bounded pool of threads that does all that it has taken
patient_pool  a pool of threads that grows only while those it has do not get on
"""
