"""The I/O skins of the wire: blocking sockets, one thread per connection while there are bytes.

channel   one ordered byte stream with deadlines: what every skin offers
tcp       channels over TCP: dial and listen, with TLS or without
tls       channels over TLS: what is sealed and opened on the way, certificates, whom to believe
unix      channels over UNIX sockets, which may hand over a descriptor
memory    channels inside one process, for tests
arena     shared memory of one host, for the payloads of messages
link      a wire connection on a channel
credentials  how a part shakes hands, from its settings
listeners what a data port listens on
data_port listeners, their idle connections and the threads that serve the busy ones
thread_pool   a bounded pool of threads that does all that it has taken
patient_pool  a pool of threads that grows only while those it has do not get on
"""
