"""The routes of the protocol (SPEC 4) that a device uses, as methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from splitfrozen.errors import RefusedError
from splitfrozen_edge.http.refusals import TransientError, with_fields
from splitfrozen_edge.http.transport import Json, Transport, garbage

__all__ = ["Client", "Json"]

_DATASETS = "/v1/activation_datasets"
_OF_DATASET = ("id", "name", "task", "cut", "base_model", "labels", "open_labels", "sealed")


class Client(Transport):
    """One server, one bearer token."""

    def enroll(self, name: str, profile: Mapping[str, Any]) -> Json:
        """Make this device known; the answer holds its `id` and `token`.

        An enrolment token has limited uses, so this is sent again only if it cannot have arrived.
        """
        document = {"name": name, "profile": dict(profile)}
        answer = self.call("POST", "/v1/devices", document, idempotent=False)
        return with_fields(answer, "id", "token")

    def dataset(self, name: str) -> Json | None:
        """A dataset by id or name, or None."""
        found = self._get_or_none(f"{_DATASETS}/{_part(name)}")
        return None if found is None else with_fields(found, *_OF_DATASET)

    def create_dataset(self, name: str, *, bundle: str, task: str) -> Json:
        """Make an open dataset for a published bundle; one that appeared meanwhile is fine."""
        document = {"name": name, "bundle": bundle, "task": task}
        try:
            return with_fields(self._post(_DATASETS, document), *_OF_DATASET)
        except RefusedError as error:
            found = self.dataset(name) if error.code == "name_taken" else None
            if found is None:
                raise
            return found

    def add_labels(self, dataset: str, names: list[str]) -> list[str]:
        """Append names to an open dataset; the whole ordered list of its labels."""
        answer = self._post(f"{_DATASETS}/{_part(dataset)}/labels", {"names": names})
        return [str(name) for name in with_fields(answer, "labels")["labels"]]

    def put_shard(self, dataset: str, digest: str, body: bytes) -> Json:
        """Store an encoded shard; the receipt, which names the same digest."""
        path = f"{_DATASETS}/{_part(dataset)}/shards/{digest}"
        return self.retrying(lambda: _check_receipt(self.send_body("PUT", path, body), digest))

    def bundles(self, base_model: str, cut: int) -> list[Json]:
        """Published bundles of a base model and cut."""
        params = {"base_model": base_model, "cut": str(cut)}
        return list(with_fields(self.call("GET", "/v1/bundles", params=params), "data")["data"])

    def model(self, name: str) -> Json | None:
        """A model by name, or None if there is none or this token may not see it."""
        try:
            return self._get_or_none(f"/v1/models/{_part(name)}")
        except RefusedError as error:
            if error.code == "forbidden":
                return None
            raise

    def classify(self, model: str, body: bytes) -> Json:
        """Run the server's half on a shard of task inference."""
        return self.call_with_body(
            "POST", "/v1/split/classifications", body, params={"model": model}
        )

    @contextmanager
    def download(
        self, bundle: str, name: str, offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Stream a bundle's file from `offset`: (the offset it really starts at, chunks).

        One attempt: raises TransientError when the stream breaks; call it within `retrying`.
        """
        path = f"/v1/bundles/{_part(bundle)}/files/{_part(name)}"
        # Ranges count stored bytes, so nothing may be encoded on the way.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self.stream(path, headers) as (status, chunks):
            yield (offset if status == 206 else 0), chunks

    def _get_or_none(self, path: str) -> Json | None:
        try:
            return self.call("GET", path)
        except RefusedError as error:
            if error.code == "not_found":
                return None
            raise

    def _post(self, path: str, document: Json) -> Json:
        return self.call("POST", path, document)


def _check_receipt(receipt: Json, digest: str) -> Json:
    if receipt.get("digest") != digest:
        # Not trusted as stored: the body stays here and is sent again.
        raise TransientError(garbage(f"the receipt for shard {digest[:12]}… names another digest"))
    return receipt


def _part(text: str) -> str:
    """One path segment or query value."""
    return quote(text, safe="")
