"""Jobs as the API knows them: requests, state, leases and names. No torch, no HTTP."""
