"""Small programs that run in the clean environment. They import nothing of the benchmarks."""
