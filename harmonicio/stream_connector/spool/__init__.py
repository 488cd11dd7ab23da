"""Messages that are kept on disk until they are safe, so that a source that is killed finds them again.

records     what a segment file holds, byte by byte: pure
book        which messages and bytes each segment has, and when it can go: pure
disk        files and folders
payloads    what is sent from the spool instead of from memory
spool       puts messages in, forgets what is safe, finds what was left
"""
