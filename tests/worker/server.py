"""A real `splitfrozen-server serve` with its worker, over data that a test put there."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.orm import Session
from transformers import AutoConfig

from splitfrozen.wire import Shard, digest, encode
from splitfrozen_export.split import prefix_digest, resolve_model
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from tests.worker.shards import BUNDLE, CUT

MODEL = "tiny"
PATIENCE = 120.0  # seconds that any wait may take before the test fails


class Server:
    """One server process on a free port; may be killed and started again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._device_tokens: dict[str, str] = {}
        self._numbers = itertools.count()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def add_model(self, path: Path, *, name: str = MODEL, bundle: str = BUNDLE) -> None:
        """Register a model and one bundle of it; before the first start."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(f"sqlite:///{self.data_dir / 'splitfrozen.db'}")
        database.write_sync(lambda session: _insert_model(session, path, name, bundle))
        database.close()

    def start(self, *options: str) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(Path(sys.executable).parent / "splitfrozen-server", "serve"),
                    *("--data-dir", str(self.data_dir), "--port", str(self.port), *options),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.wait(self._is_up, "the server answers")
        token = (self.data_dir / "admin.token").read_text().strip()
        self.http.headers["Authorization"] = f"Bearer {token}"
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def close(self) -> None:
        self.stop()
        self.http.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def worker_pid(self) -> int | None:
        """Process id of the running worker."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            if b"splitfrozen_server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        return None

    def kill_worker(self) -> bool:
        """SIGKILL the worker; False if there was none at the moment."""
        if (pid := self.worker_pid()) is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def create_dataset(self, name: str | None = None, **fields: Any) -> dict[str, Any]:
        """A closed dataset of two labels under a name of its own; `fields` change it."""
        name = name or f"set-{next(self._numbers)}"
        body = {"name": name, "base_model": MODEL, "cut": CUT, "task": "classification"}
        if "labels" not in fields and fields.get("task") != "causal_lm":
            body["labels"] = ["down", "up"]
        return self.post("/v1/activation_datasets", {**body, **fields})

    def push(self, shard: Shard, device: str = "pi-1") -> None:
        body = encode(shard)
        answer = self.http.put(
            f"/v1/activation_datasets/{shard.dataset}/shards/{digest(body)}",
            content=body,
            headers={"Authorization": f"Bearer {self.device_token(device)}"},
        )
        assert answer.status_code in (200, 201), answer.text

    def ask(self, shard: Shard, model: str, device: str = "pi-1") -> httpx.Response:
        """Split inference as a device."""
        return self.http.post(
            "/v1/split/classifications",
            params={"model": model},
            content=encode(shard),
            headers={"Authorization": f"Bearer {self.device_token(device)}"},
        )

    def device_token(self, name: str) -> str:
        if name not in self._device_tokens:
            enrol = self.post("/v1/tokens", {"role": "enrol", "uses": 1})["token"]
            made = self.http.post(
                "/v1/devices", json={"name": name}, headers={"Authorization": f"Bearer {enrol}"}
            )
            assert made.status_code == 201, made.text
            self._device_tokens[name] = made.json()["token"]
        return self._device_tokens[name]

    def seal(self, dataset: str) -> None:
        self.post(f"/v1/activation_datasets/{dataset}/seal", {})

    def create_job(self, dataset: str, **fields: Any) -> dict[str, Any]:
        """A small job; `fields` are merged over it."""
        ours = {"save_every": 4, "learning_rate": 1e-3} | fields.pop("splitfrozen", {})
        hyper = {"n_epochs": 3, "batch_size": 8} | fields.pop("hyperparameters", {})
        method = {"type": "supervised", "supervised": {"hyperparameters": hyper}}
        body = {"model": MODEL, "training_file": dataset, "method": method, "splitfrozen": ours}
        return self.post("/v1/fine_tuning/jobs", {**body, **fields})

    def get(self, path: str, **query: Any) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def job(self, job_id: str) -> dict[str, Any]:
        return self.get(f"/v1/fine_tuning/jobs/{job_id}")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All events, oldest first."""
        found = self.get(f"/v1/fine_tuning/jobs/{job_id}/events", limit=1000)
        return found["data"][::-1]

    def messages(self, job_id: str) -> list[str]:
        return [event["message"] for event in self.events(job_id)]

    def losses(self, job_id: str) -> list[float]:
        """Training losses by step."""
        found = [event["data"] for event in self.events(job_id) if event["type"] == "metrics"]
        return [data["train_loss"] for data in found if "train_loss" in data]

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        ended = ("succeeded", "failed", "cancelled")
        self.wait(lambda: self.job(job_id)["status"] in ended, f"{job_id} ends")
        return self.job(job_id)

    def wait_for_step(self, job_id: str, step: int) -> None:
        self.wait(lambda: self.job(job_id)["steps_completed"] >= step, f"{job_id} makes {step}")

    def download_adapter(self, job: dict[str, Any]) -> dict[str, bytes]:
        """The files of a succeeded job's adapter."""
        for file_id in job["result_files"]:
            if self.get(f"/v1/files/{file_id}")["purpose"] == "adapter":
                content = self.http.get(f"/v1/files/{file_id}/content").content
                with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                    return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
        raise AssertionError(f"no adapter in {json.dumps(job)}")

    def wait(self, condition: Any, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain until {what}:\n{self.log.read_text()}")
            time.sleep(0.05)

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log.read_text()}")
        try:
            return self.http.get("/health").status_code == 200
        except httpx.TransportError:
            return False


def _insert_model(session: Session, path: Path, name: str, bundle: str) -> None:
    config = AutoConfig.from_pretrained(path).get_text_config()
    session.add(
        BaseModelRow(
            id=f"bm_{name}",
            name=name,
            source=str(path),
            path=str(path),
            trust_remote_code=False,
            family=config.model_type,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            created_at=1,
        )
    )
    session.flush()
    session.add(
        BundleRow(
            id=bundle,
            base_model_id=f"bm_{name}",
            cut=CUT,
            precision="fp32",
            wire="fp32",
            prefix_digest=prefix_digest(resolve_model(path), CUT),
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            max_length=64,
            manifest=json.dumps({"max_positions": config.max_position_embeddings}),
            size=1,
            created_at=1,
        )
    )
