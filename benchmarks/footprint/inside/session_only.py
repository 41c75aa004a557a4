"""A process with the session and nothing else: BUNDLE STATE MEMORY.

Opens device.onnx on one thread, runs 1 x 128 tokens, prints its own memory in bytes as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from splitfrozen.bundle import read_bundle
from splitfrozen_edge.model.memory import process_memory
from splitfrozen_edge.model.opening import open_session
from splitfrozen_edge.model.threads import typical_ids

bundle = read_bundle(Path(sys.argv[1]))
wire = bundle.manifest.wire
session = open_session(bundle, Path(sys.argv[2]), threads=1, memory=sys.argv[3], wire=wire)
ids = typical_ids(bundle.manifest.vocab_size, 128)
session.run(ids, np.ones_like(ids))
print(json.dumps(process_memory()))
