"""Deployment of a configuration: fetched, checked, applied between two frames, undone if it fails.

::

    <folder>/configuration/
    ├── state.json          which one is followed, which was refused and why
    └── <sha256>.toml       its content, as it was signed

Invariants:

- What is followed changes only after the new one was written down, applied and watched on real frames; a kill at any
  point starts with the one before.
- ``agent.toml`` is never written. One that can't be used any more (an older agent) leaves it standing alone.
- A refused configuration isn't tried again until the hub asks for one anew, under a higher generation: what only comes
  along with something else that was pushed is no new question.
- The bundle comes first: a configuration is looked at while the update machine rests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.config import AgentConfig, with_settings
from lineside_agent.deployment.desired_state import REFUSED_MAX, wish_id
from lineside_agent.deployment.runner import FOREIGN, TRANSIENT, ShouldStop
from lineside_link.messages import ConfigRef, ConfigReport, Desired, Problem
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BrokerError, ConfigError, FetchError, LinesideError, StagingError, StoreError
from lineside_runtime.files import write_atomic
from lineside_runtime.serving.backoff import Backoff

log = logging.getLogger("lineside.configuration")

MAX_TRIALS = 3
"""Starts of the agent that may end within one try of a configuration."""

_PAUSES = Backoff(1.0, 60.0)

BringConfiguration = Callable[[ConfigRef, ShouldStop], bytes]
"""Brings a signed configuration: `fetch.Fetcher.bring_configuration`."""

Apply = Callable[[AgentConfig], None]
"""Makes the agent run so, or raises and leaves it as it was."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down.

    Attributes:
        installed: What is followed.
        wanted: What the last wish asked for.
        epoch: Of that wish.
        gen: Of that wish.
        trying: What is being tried, if it is.
        trials: Starts of the agent within this try.
        refused: Wishes that failed, as ``epoch/asked/sha256``; the last few.
        error: Why what is wanted isn't followed.
    """

    installed: ConfigRef | None = None
    wanted: ConfigRef | None = None
    epoch: int = 0
    gen: int = 0
    trying: ConfigRef | None = None
    trials: int = 0
    refused: tuple[str, ...] = ()
    error: Problem | None = None


def read_followed(local: AgentConfig) -> AgentConfig:
    """Returns what would hold at the start of an agent, without touching anything.

    Args:
        local: From ``agent.toml``.

    Raises:
        ConfigError: The hub's configuration that is followed here can't be read, or not by this agent.
    """
    folder = local.folder / "configuration"
    try:
        state = decode_json((folder / "state.json").read_bytes(), type=State)
        if state.installed is None:
            return local
        return with_settings(local, (folder / f"{state.installed.sha256}.toml").read_bytes())
    except FileNotFoundError as error:
        if error.filename == str(folder / "state.json"):
            return local
        raise ConfigError(f"the hub's configuration is gone: {error}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"the hub's configuration can't be read: {error}") from error


class Configuration:
    """What holds on this device: ``agent.toml`` with the hub's configuration over it.

    Args:
        local: From ``agent.toml``.
        bring: How a configuration comes here; ``None`` without a link.
        observe: Told of every change.

    Attributes:
        effective: What holds now.
        state: What is written down.
    """

    def __init__(
        self, local: AgentConfig, *, bring: BringConfiguration | None = None, observe: Callable[[ConfigReport], None]
    ) -> None:
        self._local = local
        self._folder = local.folder / "configuration"
        self._bring = bring
        self._observe = observe
        self._tries = 0
        self._again_at_s = 0.0
        self.state = self._read()
        self.effective = self._first()

    def report(self) -> ConfigReport:
        """Returns what the hub is told."""
        state = self.state
        return ConfigReport(
            epoch=state.epoch, gen=state.gen, installed=state.installed, wanted=state.wanted, error=state.error
        )

    def kick(self) -> None:
        """Says that the link stands anew: a pause before the next try ends at once."""
        self._again_at_s = 0.0

    def follow(self, wish: Desired | None, apply: Apply, should_stop: ShouldStop) -> None:
        """Looks whether the wish asks for another configuration, and goes through with it.

        Args:
            wish: The one that counts; called again and again with the same one.
            apply: Makes the agent run so.
            should_stop: Looked at while fetching.
        """
        wanted = None if wish is None else wish.config
        if (
            wish is None
            or wanted is None
            or wish_id(wish.epoch, wish.generation_of("config"), wanted) in self.state.refused
        ):
            return
        if self.state.installed is not None and self.state.installed.sha256 == wanted.sha256:
            self._answer(wish, wanted)
            return
        if time.monotonic() < self._again_at_s or self._bring is None:
            return
        try:
            self._try(wish, wanted, apply, should_stop)
        except FetchStopped:
            return
        except TRANSIENT as error:
            if error.code != FetchError.code or getattr(error, "status", 0) != 404:
                self._later(wish, wanted, error)
            else:
                self._refuse(wish, wanted, error)
        except (LinesideError, *FOREIGN) as error:
            known = error if isinstance(error, LinesideError) else StagingError(f"{type(error).__name__}: {error}")
            self._refuse(wish, wanted, known)

    def _try(self, wish: Desired, wanted: ConfigRef, apply: Apply, should_stop: ShouldStop) -> None:
        trials = self.state.trials + 1 if self.state.trying == wanted else 1
        if trials > MAX_TRIALS:
            raise StagingError(f"the agent ended {MAX_TRIALS} times while it tried this configuration")
        data = self._fetch(wanted, should_stop)
        config = with_settings(self._local, data)
        self._folder.mkdir(exist_ok=True)
        write_atomic(self._path(wanted), data)
        self._change(self._asked(wish, wanted, trying=wanted, trials=trials), tell=False)
        apply(config)
        self.effective = config
        self._change(self._asked(wish, wanted, installed=wanted))
        log.info("configuration %s is in use (push %d of the hub)", wanted.sha256[:12], wish.gen)
        self._tidy()

    def _fetch(self, wanted: ConfigRef, should_stop: ShouldStop) -> bytes:
        if self._bring is None:
            raise BrokerError("no link to fetch a configuration over", action="Add [link] to agent.toml.")
        return self._bring(wanted, should_stop)

    def _asked(self, wish: Desired, wanted: ConfigRef, **changes: object) -> State:
        fresh = {"trying": None, "trials": 0, "error": None, "epoch": wish.epoch, "gen": wish.gen, "wanted": wanted}
        self._tries, self._again_at_s = 0, 0.0
        return msgspec.structs.replace(self.state, **(fresh | changes))

    def _answer(self, wish: Desired, wanted: ConfigRef) -> None:
        asked = self._asked(wish, wanted)
        if asked != self.state:
            self._change(asked)

    def _later(self, wish: Desired, wanted: ConfigRef, error: LinesideError) -> None:
        tries = self._tries + 1
        problem = Problem(**error.as_dict())
        if self.state.error != problem:
            self._change(self._asked(wish, wanted, error=problem))
        self._tries, self._again_at_s = tries, time.monotonic() + _PAUSES.after(tries)

    def _refuse(self, wish: Desired, wanted: ConfigRef, error: LinesideError) -> None:
        log.error("configuration %s is refused: %s", wanted.sha256[:12], error)
        refused = (*self.state.refused, wish_id(wish.epoch, wish.generation_of("config"), wanted))[-REFUSED_MAX:]
        self._change(self._asked(wish, wanted, error=Problem(**error.as_dict()), refused=refused))

    def _change(self, state: State, *, tell: bool = True) -> None:
        self._folder.mkdir(exist_ok=True)
        try:
            write_atomic(self._folder / "state.json", msgspec.json.format(msgspec.json.encode(state), indent=1))
        except (LinesideError, OSError) as error:
            if state.trying is not None or state.installed != self.state.installed:
                raise StoreError(f"the configuration can't be written down: {error}") from error
            log.error("%s can't be written: %s", self._folder, error)
        self.state = state
        if tell:
            self._observe(self.report())

    def _tidy(self) -> None:
        kept = {self._path(ref) for ref in (self.state.installed, self.state.trying) if ref is not None}
        for path in self._folder.glob("*.toml"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, ref: ConfigRef) -> Path:
        return self._folder / f"{ref.sha256}.toml"

    def _read(self) -> State:
        path = self._folder / "state.json"
        try:
            return decode_json(path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.DecodeError as error:
            aside = path.with_name(f"state.json.damaged-{time.time_ns()}")
            path.rename(aside)
            log.error("%s is damaged (%s): set aside; agent.toml stands alone until the hub is heard", path, error)
            return State()

    def _first(self) -> AgentConfig:
        if self.state.installed is None:
            return self._local
        try:
            return with_settings(self._local, self._path(self.state.installed).read_bytes())
        except (ConfigError, OSError) as error:
            log.error("the hub's configuration can't be followed, agent.toml stands alone: %s", error)
            self.state = msgspec.structs.replace(self.state, installed=None)
            return self._local
