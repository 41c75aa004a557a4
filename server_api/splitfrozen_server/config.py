"""The server's settings: one frozen object, built once by the command line."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from splitfrozen.wire import MAX_BODY


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class ServerConfig:
    """Everything `serve` was told. Sizes are bytes, times are seconds."""

    data_dir: Path  # database, shards, bundles, jobs, the first admin token, its key
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    control_socket: Path = Path("control.sock")  # the worker reports here
    worker_socket: Path = Path("worker.sock")  # the API asks for inference here
    tls_cert: Path | None = None
    tls_key: Path | None = None
    own_ca: Path | None = None  # certificate of the CA that `tls init` made, where it signs ours
    allow_plain_http: bool = False  # plain HTTP beyond loopback, warned about at every start
    allow_remote_code: bool = False  # admins may register models that bring Python code
    run_worker: bool = True  # False: take uploads only
    idle_seal: float | None = None  # default of datasets that do not say; None: never
    max_body: int = MAX_BODY  # of a shard, uncompressed
    max_ratio: int = 64  # uncompressed bytes per compressed byte, above 1 MiB
    max_request: int = 1 << 20  # of any other request body
    upload_slots: int = 16  # shard bodies in memory at once
    inference_slots: int = 16  # bodies that wait for the worker at once; uploads keep their own
    step_slots: int = 64  # steps of split sessions that wait for the worker at once
    max_sessions: int = 256  # split sessions at once; the one used longest ago gives way
    session_memory: int | None = None  # of their keys and values; None: a quarter of the machine's
    session_idle: float = 600.0  # without a step until a split session is dropped
    slot_wait: float = 5.0  # until a shard without a slot is answered 429
    body_timeout: float = 60.0  # for a whole body to arrive
    keep_free: int = 64 << 20  # disk that uploads leave to the database and to training
    max_labels: int = 10_000  # of one dataset
    max_bundle: int = 64 << 30  # of all files of a bundle that is uploaded
    max_incoming: int = 8  # bundles whose upload has begun and not ended

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'splitfrozen.db'}"

    @property
    def blob_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def bundle_dir(self) -> Path:
        return self.data_dir / "bundles"

    @property
    def incoming_dir(self) -> Path:
        return self.data_dir / "incoming"

    @property
    def orphan_dir(self) -> Path:
        return self.data_dir / "orphans"

    @property
    def admin_token_file(self) -> Path:
        return self.data_dir / "admin.token"

    @property
    def bundle_key_file(self) -> Path:
        return self.data_dir / "bundle.key"

    @property
    def tls_dir(self) -> Path:
        return self.data_dir / "tls"

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def has_tls(self) -> bool:
        return self.tls_cert is not None and self.tls_key is not None
