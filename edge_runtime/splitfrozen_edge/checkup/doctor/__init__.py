"""`doctor`: what could keep this device from working, in words, with what to do.

Readings are taken by `readings`, `runtime`, `state` and `network`; what they mean is decided by the
pure modules `machine`, `runtime_words`, `state_words` and `network_words`.
"""
