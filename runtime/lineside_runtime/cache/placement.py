"""A placement behind the session's result cache."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from lineside_runtime.cache.key import inputs_digest, namespace
from lineside_runtime.cache.levels import ResultCache
from lineside_runtime.config import Config
from lineside_runtime.serving.candidates import PlacementCandidate
from lineside_runtime.serving.placement import Placement
from lineside_runtime.serving.types import Prediction
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.stages.placement import StagedCandidate, StagedPlacement


class CachedPlacement:
    """Answers from the cache where possible, and stores the placement's answers.

    A call is looked up under the key of each candidate that may run it now, and stored under the key of the one that
    answered: the result of a standby, perhaps with another variant, is not used for the first choice later.
    """

    def __init__(self, cache: ResultCache, placement: Placement | StagedPlacement, config: Config) -> None:
        """Puts a cache in front of a placement."""
        self._cache = cache
        self._placement = placement
        self._config = config
        self._bundle_digest = placement.bundle.digest
        self._identity = placement.bundle.manifest.identity
        self._requested = placement.requested_device
        self._names: dict[str, bytes] = {}
        self._looked_up: tuple[tuple[PlacementCandidate | StagedCandidate, ...], list[bytes]] = (), []

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Like `Placement.run`; an answer from the cache names its level.

        Its outputs are read-only, whether they come from the cache or not.
        """
        digest = inputs_digest(inputs)
        found = self.find(digest)
        if found is not None:
            return found
        return self.keep(digest, inputs, self._placement.run(inputs))

    def find(self, digest: bytes | None) -> Prediction | None:
        """Returns the answer to inputs with this digest, if a level has it."""
        if digest is None:
            self._cache.note_not_kept()
            return None
        firsts, names = self._looked_up
        now = self._placement.firsts
        if now is not firsts:  # the same tuple as long as nothing changes
            names = [self._name(candidate) for candidate in now]
            self._looked_up = now, names
        found = self._cache.get([name + digest for name in names])
        if found is None:
            return None
        entry, level = found
        return Prediction(
            outputs=dict(entry.outputs),
            requested_device=self._requested,
            used_device=entry.device,
            fell_back=False,
            inference_ms=0.0,
            bundle=self._identity,
            cached=level,
        )

    def keep(self, digest: bytes | None, inputs: Mapping[str, Array], prediction: Prediction) -> Prediction:
        """Stores an answer, and returns it read-only, as a hit is.

        It is not stored if the caller has changed the input while it was computed.
        """
        if digest is not None:
            if inputs_digest(inputs) == digest:
                self._put(digest, prediction)
            else:
                self._cache.note_unstable()
        return replace(prediction, outputs=_read_only(prediction.outputs))

    def _put(self, digest: bytes, prediction: Prediction) -> None:
        for candidate in self._placement.candidates:
            if str(candidate) == prediction.used_device:
                device = prediction.used_device
                keep_there = partial(self._placement.keep, device)
                self._cache.put(self._name(candidate) + digest, prediction.outputs, device, keep_there=keep_there)
                return

    def _name(self, candidate: PlacementCandidate | StagedCandidate) -> bytes:
        text = str(candidate)
        name = self._names.get(text)
        if name is None:
            parts = (candidate,) if isinstance(candidate, PlacementCandidate) else candidate.candidates
            name = self._names[text] = namespace(self._bundle_digest, parts, self._config)
        return name


def _read_only(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns read-only views, so that a caller who writes to outputs fails at the first call and not at a hit."""
    views: dict[str, Array] = {}
    for name, array in outputs.items():
        if isinstance(array, np.ndarray):
            views[name] = view = array.view()
            view.flags.writeable = False
        else:  # a list or a map, which no cache keeps
            views[name] = array
    return views
