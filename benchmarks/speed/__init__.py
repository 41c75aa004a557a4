"""The parts of the speed benchmark: graphs, contenders in their own processes, rounds."""
