"""A TUF repository over HTTP that a test changes as it likes, and the client under test before it."""

from __future__ import annotations

import copy
import datetime
import subprocess
import threading
import urllib.parse
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

CLIENT = Path(__file__).parents[1] / "conformance" / "tuf-client"
TOP = (Targets.type, Snapshot.type, Timestamp.type)


def days(number: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(days=number)


class Simulator:
    """Keeps every version that it published, and says what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.hashes = False
        kinds: dict[str, Any] = {"root": Root, "targets": Targets, "snapshot": Snapshot, "timestamp": Timestamp}
        self.mds: dict[str, Metadata[Any]] = {role: Metadata(kind(expires=days(30))) for role, kind in kinds.items()}
        self.signers: dict[str, list[CryptoSigner]] = {}
        for md in self.mds.values():
            md.signed.version = 0
        for role in kinds:
            self.set_keys(role, [CryptoSigner.generate_ed25519()])
        self.publish("root", *TOP)
        simulator = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                simulator.asked.append(name)
                data = simulator.files.get(urllib.parse.unquote(name) if name.startswith("targets/") else name)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                """Nothing: the tests read `asked`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def signed(self, role: str) -> Any:
        return self.mds[role].signed

    def set_keys(
        self,
        role: str,
        keys: Iterable[CryptoSigner],
        *,
        threshold: int = 1,
        sign_with: Iterable[CryptoSigner] | None = None,
    ) -> None:
        keys = list(keys)
        delegation = self.signed("root").roles[role]
        delegation.keyids, delegation.threshold = [], threshold
        for key in keys:
            self.signed("root").add_key(key.public_key, role)
        self.signers[role] = keys if sign_with is None else list(sign_with)

    def publish(self, *roles: str) -> None:
        for role in roles:
            md = self.mds[role]
            md.signed.version += 1
            self.store(role)

    def store(self, role: str) -> None:
        """Signs and serves a role as it is, and names it in what leads to it."""
        md = self.mds[role]
        md.signatures.clear()
        for signer in self.signers[role]:
            md.sign(signer, append=True)
        data = md.to_bytes()
        name = urllib.parse.quote(role, "")
        version = md.signed.version
        self.files["metadata/timestamp.json" if role == "timestamp" else f"metadata/{version}.{name}.json"] = data
        info = MetaFile.from_data(version, data, ["sha256"]) if self.hashes else MetaFile(version)
        if role == "snapshot":
            self.signed("timestamp").snapshot_meta = info
        elif role not in ("root", "timestamp"):
            self.signed("snapshot").meta[f"{role}.json"] = info

    def delegate(self, by: str, role: str, paths: list[str], *, terminating: bool = False, expires: float = 30) -> None:
        signed = self.signed(by)
        if signed.delegations is None:
            signed.delegations = Delegations({}, roles={})
        signed.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, paths)
        if role not in self.mds:
            self.mds[role] = Metadata(Targets(expires=days(expires)))
            self.mds[role].signed.version = 0  # `publish` makes it 1
        self.signers.setdefault(role, [CryptoSigner.generate_ed25519()])
        signed.add_key(self.signers[role][0].public_key, role)

    def add_target(self, role: str, path: str, data: bytes) -> None:
        info = TargetFile.from_data(path, data, ["sha256"])
        self.signed(role).targets[path] = info
        folder, _, name = path.rpartition("/")
        prefix = f"targets/{folder}/" if folder else "targets/"
        self.files[f"{prefix}{info.hashes['sha256']}.{name}"] = data

    def replace_content(self, path: str, data: bytes) -> None:
        for name in list(self.files):
            if name.startswith("targets/") and name.endswith(path.rpartition("/")[2]):
                self.files[name] = data

    def metadata_asked(self) -> list[str]:
        return [name.removeprefix("metadata/") for name in self.asked if name.startswith("metadata/")]


class Client:
    """``tuf-client`` with its folders."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self._root = folder / "initial_root.json"
        self._url = simulator.url
        self._files = copy.copy(simulator.files)
        for path in (self.metadata, self.targets):
            path.mkdir(parents=True)

    def init(self, root: bytes) -> int:
        self._root.write_bytes(root)
        return self._run("--metadata-dir", self.metadata, "init", self._root)

    def refresh(self, *, at: datetime.datetime | None = None) -> int:
        return self._run("--metadata-url", f"{self._url}/metadata/", "--metadata-dir", self.metadata, "refresh", at=at)

    def download(self, name: str, *, at: datetime.datetime | None = None) -> int:
        return self._run(
            "--metadata-url", f"{self._url}/metadata/", "--metadata-dir", self.metadata, "--target-name", name,
            "--target-dir", self.targets, "--target-base-url", f"{self._url}/targets/", "download", at=at,
        )  # fmt: skip

    def _run(self, *arguments: str | Path, at: datetime.datetime | None = None) -> int:
        command = [str(CLIENT), *map(str, arguments)]
        if at is not None:
            command = ["faketime", f"{at:%Y-%m-%d %H:%M:%S}", *command]
        return subprocess.run(command, timeout=120, check=False).returncode

    def version(self, role: str) -> int | None:
        path = self.metadata / f"{role}.json"
        return Metadata.from_file(str(path)).signed.version if path.exists() else None

    def trusted(self) -> dict[str, int]:
        return {
            urllib.parse.unquote(path.name.removesuffix(".json")): Metadata.from_file(str(path)).signed.version
            for path in sorted(self.metadata.glob("*.json"))
        }

    def downloaded(self) -> list[bytes]:
        paths = [path for path in self.targets.rglob("*") if path.is_file()]
        return [path.read_bytes() for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]

    def written_at_ns(self) -> list[int]:
        """When each downloaded file was written."""
        return sorted(path.stat().st_mtime_ns for path in self.targets.rglob("*") if path.is_file())
