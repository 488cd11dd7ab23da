from harmonicio.wire.codec cimport pack_flat, pack_numbers

cpdef credit_frame(object messages, object size_bytes)
cpdef source_section(object metadata, object message_id)
cpdef _plain_range(object section)
cpdef read_message_section(object section)
