"""New rows of files that change: what was read is in a ledger on disk, so nothing is sent twice."""
