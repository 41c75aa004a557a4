"""The same graph on other machines: emulated Arm boards and WebAssembly, built once and kept.

`python -m benchmarks.emulation` builds everything and says where it lies. Nothing needs root.
"""
