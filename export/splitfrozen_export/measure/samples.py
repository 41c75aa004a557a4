"""Sentences that the exporter runs through a graph when the user gives none.

Short and long, questions and statements, two languages, numbers and punctuation: their only
purpose is to make activations like those of real text.
"""

from __future__ import annotations

SENTENCES = (
    "Yes.",
    "Turn the lights in the kitchen off, please.",
    "The film is a gorgeous, witty and seductive piece of work.",
    "What time does the last train to the airport leave on Sunday?",
    "Natalia sold 48 clips in April, and then half as many in May. How many did she sell?",
    "Das Wetter bleibt morgen kühl, am Nachmittag kann es regnen.",
    "It was the first time in years that anyone had opened the old wooden door, and nobody in the "
    "village remembered what was behind it.",
    "def mean(values): return sum(values) / len(values)  # fails on an empty list",
    "Once upon a time, there was a little girl who liked to play outside in the park with her dog.",
    "I ordered the blue one (size M) on 3 March; I got the red one, and it doesn't fit.",
    "Researchers measured how much energy the small device needs to answer one question, compared "
    "it with a server in a data centre, and found a difference that surprised even those who had "
    "built it: most of the energy went into the network.",
    "No, not yet.",
)
