"""The models that are served: name to session, loaded, reloaded and unloaded in place."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lineside_runtime.bundle import Manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    ConfigError,
    DeviceError,
    InputError,
    LinesideError,
    RequestError,
    UnsupportedModelError,
)
from lineside_runtime.server.model_interface import InterfaceMaker, ModelInterface, NetworkInterface
from lineside_runtime.server.wire import datatype_of, servable
from lineside_runtime.serving.shared import Retired, Shared
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec

log = logging.getLogger("lineside.server")


@dataclasses.dataclass(frozen=True, slots=True)
class _Loaded:
    """A bundle as it was loaded, with what clients send and get."""

    session: Session
    interface: ModelInterface

    def close(self) -> None:
        self.session.close(wait_s=0)  # whoever waited for an answer has it


class ServedModel:
    """One served bundle.

    Attributes:
        name: Of the model, from the manifest that was loaded first; it stays.
        reason: Why it isn't ready; empty if it is.
    """

    def __init__(self, source: Path, config: Config, interface_of: InterfaceMaker = lambda _: None) -> None:
        """Loads the bundle.

        Args:
            source: Its folder or archive.
            interface_of: Returns what clients send and get.

        Raises:
            LinesideError: As `Session`.
        """
        self._source = source
        self._config = config
        self._interface_of = interface_of
        self._changing = threading.Lock()
        self._loaded = self._opened()
        self._shared: Shared[_Loaded] | None = Shared(self._loaded)
        self.name = self.manifest.name
        self.reason = ""

    @property
    def session(self) -> Session | None:
        """What runs it; ``None`` while it is unloaded."""
        return self._loaded.session if self._shared is not None else None

    @property
    def interface(self) -> ModelInterface:
        """What clients send and get; of the bundle that was loaded last."""
        return self._loaded.interface

    @property
    def manifest(self) -> Manifest:
        """The one that was loaded last."""
        return self._loaded.session.manifest

    @property
    def variant(self) -> str:
        """The variant that leads, empty while the model is unloaded."""
        session = self.session
        return session.variant if session else ""

    @contextlib.contextmanager
    def use(self) -> Iterator[ModelInterface]:
        """Holds what is loaded open, so that a call ends on it while another bundle is loaded, or none.

        Raises:
            RequestError: It is unloaded (404).
        """
        shared, loaded = self._enter()
        try:
            yield loaded.interface
        finally:
            shared.leave()

    def _enter(self) -> tuple[Shared[_Loaded], _Loaded]:
        while (shared := self._shared) is not None:
            with contextlib.suppress(Retired):  # replaced in between: take the successor
                return shared, shared.enter()
        raise RequestError(
            f"the model {self.name!r} is not loaded", status=404, action=f"POST /v2/repository/models/{self.name}/load"
        )

    def load(self) -> None:
        """Loads the bundle again from its folder and replaces the old one; calls that have begun end on that one.

        Raises:
            RequestError: It is another model's bundle (409); the old one goes on.
            LinesideError: It can't be loaded; the old one, if there was one, goes on.
        """
        with self._changing:
            loaded = self._opened()
            if loaded.session.manifest.name != self.name:
                loaded.close()
                raise RequestError(
                    f"{self._source} is another model's bundle",
                    status=409,
                    expected=self.name,
                    actual=loaded.session.manifest.name,
                    action="Put a bundle of this model there; start another server for the other model.",
                )
            old, self._loaded, self._shared, self.reason = self._shared, loaded, Shared(loaded), ""
            if old is not None:
                old.retire()
            log.info("%s: loaded from %s", self.manifest.identity, self._source)

    def _opened(self) -> _Loaded:
        session = _opened(self._source, self._config)
        try:
            return _Loaded(session, self._interface_of(session) or NetworkInterface(session))
        except BaseException:
            session.close()
            raise

    def unload(self) -> None:
        """Gives the devices back as soon as no call runs any more; done twice it changes nothing."""
        with self._changing:
            old, self._shared, self.reason = self._shared, None, "unloaded"
            if old is not None:
                old.retire()
                log.info("%s: unloaded", self.manifest.identity)


def _opened(source: Path, config: Config) -> Session:
    session = Session(source, config)
    for spec in (*session.manifest.inputs, *session.manifest.outputs):
        if not servable(spec):
            session.close()
            raise UnsupportedModelError(
                f"{session.manifest.identity}: {spec.name!r} can't be served",
                expected="tensors of numbers or truth values",
                actual=spec.dtype,
                action="Use it in the process itself, with Session.",
            )
    return _warm(session)


def _warm(session: Session) -> Session:
    """Runs zeros once, so that ready means as fast as it gets."""
    try:
        session.warm_up()
    except (DeviceError, InputError) as error:  # zeros may be what this model can't take
        log.warning("%s: not warmed up, its first call will be slower: %s", session.manifest.identity, error)
    return session


class ModelRepository:
    """The models by name."""

    def __init__(self, sources: Iterable[Path], config: Config, interface_of: InterfaceMaker = lambda _: None) -> None:
        """Loads every bundle.

        Args:
            sources: Their folders or archives.
            interface_of: Returns what clients of a bundle send and get; ``None`` for the network's own.

        Raises:
            ConfigError: Two of them have the same name.
            LinesideError: One can't be loaded; none stays loaded.
        """
        self._models: dict[str, ServedModel] = {}
        try:
            for source in sources:
                model = ServedModel(source, config, interface_of)
                if model.name in self._models:
                    model.unload()
                    raise ConfigError(
                        "bundles to serve",
                        expected="each model once",
                        actual=f"{model.name!r} twice",
                        action="Start a second server for the other one.",
                    )
                self._models[model.name] = model
        except LinesideError:
            self.close()
            raise

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All, loaded or not, in the order in which they were given."""
        return tuple(self._models.values())

    @property
    def ready(self) -> bool:
        """Whether every model is loaded."""
        return all(model.session is not None for model in self.models)

    def get(self, name: str, version: str = "") -> ServedModel:
        """Returns a model, loaded or not.

        Raises:
            RequestError: There is none of that name or version (404).
        """
        model = self._models.get(name)
        if model is None:
            raise RequestError(
                f"no model {name[:100]!r}", status=404, expected=f"one of {', '.join(self._models)}", actual=name[:100]
            )
        if version not in ("", model.manifest.version):
            raise RequestError(
                f"no such version of {name!r}", status=404, expected=model.manifest.version, actual=version[:100]
            )
        return model

    def close(self) -> None:
        """Unloads everything."""
        for model in self.models:
            model.unload()


def platform_of(model: ServedModel) -> str:
    """Returns the protocol's ``platform``, such as ``lineside_onnx``."""
    formats = {variant.name: variant.format for variant in model.manifest.variants}
    return f"lineside_{formats.get(model.variant, model.manifest.variants[0].format)}"


def metadata_of(model: ServedModel) -> dict[str, Any]:
    """Returns the protocol's description of a model; -1 stands for a dimension that each call may choose."""
    manifest = model.manifest
    return {
        "name": model.name,
        "versions": [manifest.version],
        "platform": platform_of(model),
        "inputs": [_tensor(spec) for spec in model.interface.inputs],
        "outputs": [_tensor(spec) for spec in model.interface.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": list(spec.shape)}


def configuration_of(model: ServedModel) -> dict[str, Any]:
    """Returns the known part of Triton's model configuration; the batch is one of the dimensions."""
    return {
        "name": model.name,
        "platform": platform_of(model),
        "backend": "lineside",
        "max_batch_size": 0,
        "input": [_configured(spec) for spec in model.interface.inputs],
        "output": [_configured(spec) for spec in model.interface.outputs],
    }


def _configured(spec: TensorSpec) -> dict[str, Any]:
    datatype = "STRING" if spec.dtype == "string" else datatype_of(spec.dtype)
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape)}


def index_of(models: Iterable[ServedModel], *, only_ready: bool = False) -> list[dict[str, str]]:
    """Returns the protocol's list of models with their states."""
    return [
        {
            "name": model.name,
            "version": model.manifest.version,
            "state": "READY" if model.session is not None else "UNAVAILABLE",
            "reason": model.reason,
        }
        for model in models
        if model.session is not None or not only_ready
    ]
