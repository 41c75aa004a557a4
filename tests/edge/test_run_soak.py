"""A daemon for a week in minutes: 10,000 heartbeats and polls, and no memory that stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from splitfrozen_edge.state import StateDirectory
from tests.edge.feeding import ENVIRONMENT, rows
from tests.edge.protocol_server import Fault, ProtocolServer

DAYS = """
import gc, json, sys
from pathlib import Path
from splitfrozen_edge.daemon.joined import FeedOptions
from splitfrozen_edge.state import StateDirectory
from tests.edge.feeding import Stepped, rows

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

state, folder, bundle, turns = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
options = FeedOptions(bundle=bundle, max_wait=0, threads=1)
daemon = Stepped(StateDirectory(state), folder, options=options)
sizes = []
for turn in range(turns):
    daemon.turn(61)
    daemon.service.look_on()
    if turn % 50 == 25:  # something comes in between, so that not only idling is looked at
        with (folder / "a.jsonl").open("a") as stream:
            stream.write(rows(1000 + 5 * turn, 5))
    if turn * 10 % turns == 0:
        sizes.append(resident())
print(json.dumps({"sizes": sizes, "writes": daemon.service._now.writes, "said": daemon.said[:20]}))
"""


@pytest.mark.long
def test_ten_thousand_heartbeats_and_polls_leave_no_memory_behind(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, encoder_bundle: Path
) -> None:
    turns = 10_000
    dataset = server.add_dataset("reviews", "classification")
    server.script("POST", *[Fault("before")] * 20)  # an outage at the start
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(rows(0, 200))
    arguments = [str(state.path), str(folder), str(encoder_bundle), str(turns)]
    done = subprocess.run(
        [sys.executable, "-c", DAYS, *arguments],
        env=ENVIRONMENT | {"MALLOC_ARENA_MAX": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = json.loads(done.stdout)
    print(found)
    assert len(server.beats) > turns * 0.9
    assert len(server.example_ids(dataset)) == len(set(server.example_ids(dataset)))
    assert len(server.example_ids(dataset)) == 200 + 5 * turns // 50
    warm, last = max(found["sizes"][1:3]), found["sizes"][-1]
    assert last - warm < 3 * 1024 * 1024, found["sizes"]
