"""The trainer: a process of its own that leases jobs, trains adapters and answers inference.

The only part of the server that imports torch. It never writes the database: it talks to the API
over the control socket and reads shard bytes from disk.
"""
