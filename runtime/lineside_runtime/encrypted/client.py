"""The device's side: run the trunk, encrypt its features, ask the server, decrypt the sums."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.encrypted.head import HeadDescription, Ints, read_description
from lineside_runtime.encrypted.packing import Packing
from lineside_runtime.encrypted.scheme import DeviceKeys
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    ConfigError,
    EngineError,
    IncompatibleBundleError,
    InputNotFoundError,
    RequestError,
)
from lineside_runtime.files import check_private
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

ANSWER_MAX_BYTES = 1 << 20
UNKNOWN_KEYS = 404


class HeadTransport(Protocol):
    """How a device reaches the head."""

    def describe(self) -> HeadDescription:
        """Returns the server's description of its head."""

    def send_keys(self, keys: bytes) -> str:
        """Sends evaluation keys, and returns the server's name for them."""

    def query(self, keys: str, ciphertext: bytes) -> bytes:
        """Returns the encrypted sums of encrypted features.

        Raises:
            RequestError: With status 404 where the server has forgotten the keys.
        """


class EncryptedHead:
    """A classifier whose last layer a server applies to encrypted features; used as a `Session` is.

    ::

        with EncryptedHead("trunk", server="https://heads.example:8010", token=token) as classifier:
            logits = classifier.predict(inputs)["logits"]

    The server never receives an image, a feature in the clear or a result. Threat model: docs/privacy.md.

    Args:
        bundle: The trunk that ``lineside privacy split`` made of a classifier.
        split: Where the classifier was split: the trunk holds the description ``<split>.json``.
        server: URL of ``lineside privacy serve``, or another way to reach the head.
        keys: File with the secret key that ``lineside privacy keys`` wrote; ``None`` makes a key for this object.
        token: What the server wants; ``None`` for nothing.
        ca_file: Certificates that the server's is checked against; those of the system if ``None``.
        config: Where the trunk runs.

    Raises:
        IncompatibleBundleError: The bundle is no trunk, or the server has another head.
        MissingExtraError: TenSEAL is not installed.
        RequestError: The server refuses.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        split: str = "head",
        *,
        server: str | HeadTransport,
        keys: Path | None = None,
        token: str | None = None,
        ca_file: Path | None = None,
        config: Config | None = None,
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.description = description_of(opened, split)
        self._keys = open_keys(self.description, keys)
        self._transport = HttpTransport(server, token=token, ca_file=ca_file) if isinstance(server, str) else server
        self._name: str | None = None
        self._set_up()
        self._session = Session(opened, config)
        self.least_noise_budget_bits: int | None = None

    def predict(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Runs a batch of images.

        Args:
            inputs: Those of the trunk, as `Session.predict` takes them.

        Returns:
            The classifier's output: ``(n, classes) float32`` logits.

        Raises:
            RequestError: The server refuses, such as when the day's queries are used up.
            IncompatibleBundleError: The server was started again with another head.
            BadInputFormatError: Its answer has no noise budget left.
        """
        features = self._session.predict(inputs)[self.description.feature_output]
        sums = self.sums(features)
        return {self.description.output: (sums * np.array(self.description.scales)).astype(np.float32)}

    def sums(self, features: Array) -> Ints:
        """Asks for the sums of ``(n, features)`` features: ``(n, classes) int64``, exactly those of the INT8 engine."""
        if features.ndim != 2 or features.shape[1] != self.description.features:
            raise ConfigError("features", expected=f"(n, {self.description.features})", actual=features.shape)
        return np.stack([self._ask(row.astype(np.int64)) for row in features])

    def _ask(self, features: Ints) -> Ints:
        ciphertext = self._keys.encrypt(features)
        try:
            answer = self._transport.query(self._name or self._set_up(), ciphertext)
        except RequestError as error:
            if error.status != UNKNOWN_KEYS:
                raise
            answer = self._transport.query(self._set_up(), ciphertext)  # the server was started again
        sums, budget = self._keys.decrypt(answer)
        if self.least_noise_budget_bits is None or budget < self.least_noise_budget_bits:
            self.least_noise_budget_bits = budget
        return sums

    def _set_up(self) -> str:
        """Sends the keys, and returns their name; the head may change before they are sent, or meanwhile."""
        self._name = None
        self._check_head()
        name = self._transport.send_keys(self._keys.evaluation_keys)
        self._check_head()
        self._name = name
        return name

    def _check_head(self) -> None:
        served = self._transport.describe()
        if served != self.description:
            raise IncompatibleBundleError(
                "the server's head was not split from the classifier that this trunk is of",
                expected=self.description.name,
                actual=served.name if served.name != self.description.name else "another one of this name",
                action="Use trunk and head of one call of lineside privacy split.",
            )

    @property
    def session(self) -> Session:
        """The session of the trunk."""
        return self._session

    def close(self) -> None:
        """Closes the trunk's session."""
        self._session.close()

    def __enter__(self) -> EncryptedHead:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()


def description_of(trunk: Bundle, split: str = "head") -> HeadDescription:
    """Reads the description of a trunk's head.

    Raises:
        IncompatibleBundleError: The bundle was not split there.
    """
    name = f"{split}.json"
    if name not in trunk.manifest.files:
        raise IncompatibleBundleError(
            f"{trunk.manifest.identity} is no trunk",
            expected=f"a bundle with {name}",
            action="Make one of a classifier: lineside privacy split BUNDLE --out FOLDER",
        )
    described = read_description(trunk.file(name).read_bytes())
    given = {spec.name: spec for spec in trunk.manifest.outputs}.get(described.feature_output)
    if given is None or given.shape[-1] != described.features:
        raise BundleFormatError(
            f"{name} does not fit the trunk", expected=f"{described.features} features", actual=str(given)
        )
    return described


def open_keys(description: HeadDescription, file: Path | None) -> DeviceKeys:
    """Makes keys for a head, or reads the secret one from a file.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Others can read it, or it holds no key of these parameters.
    """
    if file is not None and not file.is_file():
        raise InputNotFoundError(f"no secret key at {file}", action="Make one: lineside privacy keys TRUNK --out FILE")
    packing = Packing(description.features, description.classes)
    if file is None:
        return DeviceKeys(packing, description.sum_bits, None)
    check_private(file)
    try:
        return DeviceKeys(packing, description.sum_bits, file.read_bytes())
    except BadInputFormatError as error:
        raise ConfigError(
            f"{file} is no secret key of this head",
            expected="what lineside privacy keys writes",
            action="Make one: lineside privacy keys TRUNK --out FILE",
        ) from error


_TOKEN_ACTION = "Give the server's token: --token-file FILE, or `token` in Python."


class HttpTransport:
    """The head of ``lineside privacy serve``.

    Args:
        url: Such as ``https://heads.example:8010``.
        token: What the server wants.
        ca_file: Certificates that the server's is checked against.
        timeout_s: Longest time of one call.
    """

    def __init__(
        self, url: str, *, token: str | None = None, ca_file: Path | None = None, timeout_s: float = 30.0
    ) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(
                "server",
                expected="a URL that begins with http:// or https://",
                actual=url,
                action="Give the whole URL.",
            )
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/octet-stream"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https") else None
        self._timeout_s = timeout_s

    def describe(self) -> HeadDescription:
        """Asks for the head's description."""
        return read_description(self._call("GET", "/v1/head", None))

    def send_keys(self, keys: bytes) -> str:
        """Sends evaluation keys."""
        try:
            return decode_json(self._call("POST", "/v1/keys", keys), type=dict[str, str])["keys"]
        except (msgspec.DecodeError, KeyError) as error:
            raise EngineError(f"{self._url} is no server of lineside privacy: {error}") from error

    def query(self, keys: str, ciphertext: bytes) -> bytes:
        """Sends encrypted features."""
        return self._call("POST", f"/v1/head/{urllib.parse.quote(keys, safe='')}", ciphertext)

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(self._url + path, data=body, headers=self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=self._tls) as answer:
                data: bytes = answer.read(ANSWER_MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read(ANSWER_MAX_BYTES)) from error
        except (OSError, http.client.HTTPException) as error:
            raise RequestError(
                f"{self._url} cannot be reached: {getattr(error, 'reason', error)}",
                status=503,
                action="Check the URL, and that lineside privacy serve runs there.",
            ) from error
        if len(data) > ANSWER_MAX_BYTES:
            raise EngineError(f"{self._url} answered with more than {ANSWER_MAX_BYTES} bytes")
        return data


def _refused(status: int, body: bytes) -> RequestError:
    try:
        said: Any = decode_json(body, type=dict[str, Any])
    except msgspec.DecodeError:
        said = {}
    return RequestError(
        f"the server refused: {said.get('message') or f'HTTP status {status}'}",
        status=status,
        expected=said.get("expected"),
        actual=said.get("actual"),
        action=_TOKEN_ACTION if status == 401 else str(said.get("action", "")),
    )
