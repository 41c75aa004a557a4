"""Base models and bundles: what is published is whole, and is a registered model's."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import CODES, RefusedError
from splitfrozen.manifest import BaseModel
from splitfrozen_server.base_models import register_model
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.tables import DEFAULT_TENANT, BaseModelRow
from splitfrozen_server.publishing import publish_files
from splitfrozen_server.services import open_services
from tests.server.conftest import CUT, FILES
from tests.server.stack import ServerProcess, enrol, stored

WriteBundle = Callable[..., str]


def publish(server: ServerProcess, path: Path) -> tuple[int, dict[str, Any]]:
    with server.client() as admin:
        answer = admin.post("/v1/bundles", json={"path": str(path)})
    return answer.status_code, answer.json()


def refuse(server: ServerProcess, path: Path, code: str) -> str:
    """Publish, expect `code`, and nothing left behind; returns the message."""
    bundles = server.data_dir / "bundles"
    before = stored(server.data_dir), sorted(bundles.rglob("*"))
    status, body = publish(server, path)
    assert (status, body["error"]["code"]) == (CODES[code].status, code), body
    assert (stored(server.data_dir), sorted(bundles.rglob("*"))) == before
    message: str = body["error"]["message"]
    return message


def test_registered_model_and_bundle_are_listed(server: ServerProcess, bundle: str) -> None:
    with server.client(enrol(server)["token"]) as device:
        model = device.get("/v1/base_models").json()["data"][0]
        listed = device.get("/v1/bundles", params={"base_model": "tiny", "cut": CUT}).json()["data"]
        other = device.get("/v1/bundles", params={"cut": 3}).json()["data"]
        whole = device.get(f"/v1/bundles/{bundle}").json()
    assert (model["name"], model["family"], model["num_layers"]) == ("tiny", "gpt2", 4)
    assert [row["id"] for row in listed] == [bundle] and other == []
    assert whole["manifest"]["cut"] == CUT and whole["base_model"] == "tiny"
    assert whole["size"] > sum(map(len, FILES.values()))


def test_bundle_downloads_byte_for_byte_and_in_ranges(
    server: ServerProcess, bundle: str, bundle_dir: Path
) -> None:
    with server.client(enrol(server)["token"]) as device:
        for path in bundle_dir.iterdir():
            answer = device.get(f"/v1/bundles/{bundle}/files/{path.name}")
            assert answer.content == path.read_bytes(), path.name
        url = f"/v1/bundles/{bundle}/files/device.onnx.data"
        part = device.get(url, headers={"Range": "bytes=100-199"})
        etag = device.get(url).headers["ETag"]
    assert (part.status_code, part.content) == (206, FILES["device.onnx.data"][100:200])
    assert json.loads((bundle_dir / "splitfrozen.json").read_text())["files"]["device.onnx.data"][
        "sha256"
    ] == etag.strip('"')


@pytest.mark.parametrize("name", ["nope", "..%2F..%2Fadmin.token", "%2e%2e", "device.onnx%00"])
def test_no_other_file_can_be_downloaded(server: ServerProcess, bundle: str, name: str) -> None:
    with server.client() as admin:
        answer = admin.get(f"/v1/bundles/{bundle}/files/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_publishing_again_answers_200(server: ServerProcess, bundle: str, bundle_dir: Path) -> None:
    status, body = publish(server, bundle_dir)
    assert (status, body["id"]) == (200, bundle)


def test_bundle_of_other_weights_is_refused_and_both_are_named(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle, prefix_digest_of_tiny: str
) -> None:
    write_bundle(tmp_path / "b", prefix_digest="f" * 64, base_model=BaseModel("org/other", None))
    message = refuse(server, tmp_path / "b", "base_model_mismatch")
    assert "org/other" in message and "f" * 12 in message
    assert "tiny" in message and prefix_digest_of_tiny[:12] in message


def test_bundle_of_an_unregistered_family_is_refused(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", family="llama")
    assert "models add" in refuse(server, tmp_path / "b", "base_model_mismatch")


def test_bundle_with_a_changed_byte_is_refused(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20)
    (tmp_path / "b" / "device.onnx").write_bytes(b"grapf")
    refuse(server, tmp_path / "b", "hash_mismatch")


def test_bundle_with_a_missing_file_is_refused(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20)
    (tmp_path / "b" / "tokenizer.json").unlink()
    refuse(server, tmp_path / "b", "missing_file")


def test_bundle_with_a_link_out_of_it_is_refused(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20)
    (tmp_path / "secret").write_bytes(b"graph")
    (tmp_path / "b" / "device.onnx").unlink()
    (tmp_path / "b" / "device.onnx").symlink_to(tmp_path / "secret")
    refuse(server, tmp_path / "b", "missing_file")


def test_manifest_with_a_path_for_a_name_is_refused(
    server: ServerProcess, tmp_path: Path, bundle_dir: Path
) -> None:
    (tmp_path / "b").mkdir()
    text = (bundle_dir / "splitfrozen.json").read_text()
    (tmp_path / "b" / "splitfrozen.json").write_text(text.replace('"device.onnx"', '"../x"'))
    refuse(server, tmp_path / "b", "bad_path")


def test_a_directory_that_a_row_names_is_never_removed(data_dir: Path, bundle: str) -> None:
    """Another tenant publishes the bundle that is being served."""

    async def publish_again() -> bool:
        services = open_services(ServerConfig(data_dir=data_dir))
        try:
            live = services.config.bundle_dir / bundle
            (live / "served").touch()
            raw = (live / "splitfrozen.json").read_bytes()
            await services.database.write(add_tenant)
            await publish_files(services, "other", raw, lambda part, _: part.mkdir())
            return (live / "served").exists()
        finally:
            await services.close()

    def add_tenant(session: Session) -> None:
        model = session.scalars(select(BaseModelRow)).one()
        columns = {c.key: getattr(model, c.key) for c in BaseModelRow.__mapper__.columns}
        session.add(BaseModelRow(**{**columns, "tenant_id": "other", "id": "other"}))

    assert asyncio.run(publish_again())


def test_directory_without_a_manifest_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    refuse(server, tmp_path, "missing_file")


def test_model_that_does_not_exist_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    with server.client() as admin:
        body = {"name": "ghost", "source": str(tmp_path / "ghost")}
        answer = admin.post("/v1/base_models", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_remote_code_needs_the_operator(server: ServerProcess, tiny_gpt2: Path) -> None:
    with server.client() as admin:
        body = {"name": "code", "source": str(tiny_gpt2), "trust_remote_code": True}
        answer = admin.post("/v1/base_models", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_same_model_again_is_fine_and_another_under_its_name_is_not(
    server: ServerProcess, tiny_gpt2: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_gpt2, tmp_path / "other")
    with server.client() as admin:
        same = admin.post("/v1/base_models", json={"name": "tiny", "source": str(tiny_gpt2)})
        taken = admin.post("/v1/base_models", json={"name": "tiny", "source": str(other)})
    assert same.status_code == 200
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")


def test_same_revision_by_its_branch_or_its_commit_is_the_same_model(data_dir: Path) -> None:
    async def register(revisions: list[str]) -> list[str]:
        services = open_services(ServerConfig(data_dir=data_dir))
        await services.database.write(name_revisions)
        answers = []
        for revision in revisions:
            try:
                model = await register_model(
                    services, DEFAULT_TENANT, "tiny", "org/tiny", revision=revision
                )
                answers.append(f"{model[0].revision} {model[1]}")
            except RefusedError as error:
                answers.append(error.code)
        await services.close()
        return answers

    def name_revisions(session: Session) -> None:
        row = session.scalars(select(BaseModelRow)).one()
        row.source, row.revision, row.requested_revision = "org/tiny", "c0ffee", "main"

    known = "c0ffee False"
    assert asyncio.run(register(["main", "c0ffee", "other"])) == [known, known, "name_taken"]
