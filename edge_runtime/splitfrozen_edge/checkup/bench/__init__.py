"""`bench`: how fast a bundle runs here, block by block, in how much memory, how fast it sends."""
