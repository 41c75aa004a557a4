"""From a bundle on disk to the first activation, as a push gets there: BUNDLE STATE.

Verifies every hash, reads the tokenizer, opens the session, runs one sentence, prints its shape.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from splitfrozen.bundle import read_bundle
from splitfrozen.graph import HIDDEN, TOKENIZER
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.model.opening import open_session

bundle = read_bundle(Path(sys.argv[1]))
ids = Tokenizer.from_file(bundle.path(TOKENIZER)).encode("The first sentence of this device.").ids
session = open_session(bundle, Path(sys.argv[2]), wire=bundle.manifest.wire)
batch = np.array([ids], np.int64)
print("x".join(str(size) for size in session.run(batch, np.ones_like(batch))[HIDDEN].shape))
