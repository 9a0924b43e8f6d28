"""The wizard that learns good parts on the device: collect, learn, see the threshold, accept.

::

    <folder>/learning/
    ├── good/       collected parts, as PNG
    ├── parts.jsonl what is known of them
    ├── bad/        images of the last rejects that were kept, to see what would become of them
    ├── progress    what the learning process does
    ├── result.json
    ├── bundle/     what was learned
    └── accepted/   what was deployed, with the threshold that was chosen

The wizard of the next start of the agent goes on with them, paused. *Discard* removes the folder.

Learning runs in a process of its own at a low priority. What is accepted is deployed by the machine that deploys
the hub's bundles (`lineside_agent.deployment.local_request`).
"""

from __future__ import annotations

import collections
import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np

from lineside_agent.deployment.child_process import run_in_child
from lineside_agent.deployment.machine import BundleMachine, generation
from lineside_agent.screen.feed import thumbnail_jpeg
from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_agent.screen.set_up.learning_process import ACCEPTED, BAD, BUNDLE, GOOD, PROGRESS, RESULT, LearningResult
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.record_queries import CHALLENGE
from lineside_link.messages import ResultRow
from lineside_link.transfer.pull_window import FetchStopped
from lineside_models.anomaly.learning import FRAMES_MIN, PARTS_MIN
from lineside_models.frame import Frame
from lineside_runtime.bundle import MANIFEST_NAME
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, InputNotFoundError, LinesideError, StoreError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.learning_wizard")

FOLDER = "learning"

PARTS = "parts.jsonl"

PARTS_MAX = 200

EVERY_S = 0.3
"""Least time between two parts that are collected, so that a fast line has the processor."""

BAD_MAX = 20
"""Images of the last rejects that are judged by what was learned."""

LEARNING_TIMEOUT_S = 3600.0

MODULE = "lineside_agent.screen.set_up.learning_process"

Step = Literal["empty", "collecting", "paused", "learning", "learned", "deploying"]


class _Collected(msgspec.Struct, kw_only=True, omit_defaults=True):
    number: int
    part_id: str = ""
    captured_at_ns: int = 0
    thumbnail: bytes = b""


class LearningWizard:
    """One wizard, which all pages share.

    Args:
        screen: Gives records with their images to `observe`.
        access: Deploys what is accepted.
    """

    def __init__(self, screen: ScreenState, access: SetUpAccess) -> None:
        self._screen = screen
        self._access = access
        self._folder = screen.agent.folder / FOLDER
        self._lock = threading.RLock()
        self._step: Step = "empty"
        self._parts: collections.OrderedDict[int, _Collected] = collections.OrderedDict()
        self._next = 0
        self._pending = False
        self._due_s = 0.0
        self._error = ""
        self._result: LearningResult | None = None
        self._wanted = ""
        self._after = (0, 0)
        self._is_replaced = False
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._resume()
        screen.observers.append(self.observe)

    def _resume(self) -> None:
        """Takes up what an earlier start of the agent left."""
        found = (self._folder / GOOD).glob("*.png")
        numbers = sorted(int(path.stem) for path in found if path.stem.isdecimal())
        if not numbers:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        self._parts.update((number, _Collected(number=number)) for number in numbers)
        self._next, self._step = numbers[-1] + 1, "paused"
        with contextlib.suppress(OSError):
            for line in (self._folder / PARTS).read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError, ValueError):  # a line of which a part was written
                    part = decode_json(line, type=_Collected)
                    if part.number in self._parts:
                        self._parts[part.number] = part
        with contextlib.suppress(OSError, msgspec.DecodeError, ValueError):
            result = decode_json((self._folder / RESULT).read_bytes(), type=LearningResult)
            if result.good.keys() == self._parts.keys() and (self._folder / BUNDLE / MANIFEST_NAME).exists():
                self._result, self._step = result, "learned"
        log.info("the wizard goes on with %d good parts of an earlier start", len(numbers))

    # Collecting.

    def collect(self) -> None:
        """Takes the parts that come from now on as good ones.

        Raises:
            ConfigError: It learns or deploys.
            StoreError: The folder can't be made.
        """
        with self._lock:
            self._check("empty", "paused", "collecting", "learned")
            if self._step == "empty":
                try:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    (self._folder / GOOD).mkdir(parents=True)
                except OSError as error:
                    raise StoreError(f"{self._folder}: {error}") from error
            self._step, self._error, self._result, self._is_replaced = "collecting", "", None, False

    def pause(self) -> None:
        """Takes no more parts."""
        with self._lock:
            if self._step == "collecting":
                self._step = "paused"

    def remove(self, number: int) -> None:
        """Takes a part out again.

        Raises:
            InputNotFoundError: It is not among them.
            ConfigError: It learns or deploys.
        """
        with self._lock:
            self._check("collecting", "paused", "learned")
            if self._parts.pop(number, None) is None:
                raise InputNotFoundError("this part is not among them", action="")
            self._path(number).unlink(missing_ok=True)
            if self._step == "learned":
                self._step, self._result = "paused", None

    def observe(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record and its images from the line; collects the part where that is wanted."""
        if self._step != "collecting" or not frames or row.part_id.startswith(CHALLENGE):
            return
        now_s = time.monotonic()
        with self._lock:
            if self._pending or now_s < self._due_s or len(self._parts) >= PARTS_MAX:
                return
            self._pending, self._due_s = True, now_s + EVERY_S
        with contextlib.suppress(RuntimeError):  # the screen ends
            self._screen.worker.submit(self._keep, row, frames[0])

    def _keep(self, row: ResultRow, frame: Frame) -> None:
        number = self._next
        loaded = self._screen.active.loaded
        problem = "" if loaded is None else loaded.inspector_of(frame.source).frame_problem(frame)
        if problem:
            with self._lock:
                self._error, self._pending = f"a part is not collected: {problem}", False
            return
        try:
            free = shutil.disk_usage(self._folder).free
            if free < self._screen.agent.store.free_min_bytes:
                raise StoreError(f"only {free >> 20} MiB are free, and verdicts need them")
            done, png = cv2.imencode(".png", frame.image)
            if not done:
                raise StoreError("a part can't be written as PNG")
            part = _Collected(number=number, part_id=row.part_id, captured_at_ns=row.captured_at_ns)
            with (self._folder / PARTS).open("ab") as file:
                file.write(msgspec.json.encode(part) + b"\n")
            write_atomic(self._path(number), png.tobytes())
        except (LinesideError, OSError) as error:
            log.error("a part is not collected: %s", error)
            with self._lock:
                self._error, self._step, self._pending = str(error), "paused", False
            return
        part.thumbnail = thumbnail_jpeg(frame.image)
        with self._lock:
            self._next += 1
            self._error, self._pending = "", False
            if self._step == "collecting":
                self._parts[number] = part
                if len(self._parts) >= PARTS_MAX:
                    self._step = "paused"
            else:
                self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / GOOD / f"{number:04d}.png"

    def thumbnail(self, number: int) -> bytes | None:
        """Returns the JPEG of a collected part."""
        with self._lock:
            found = self._parts.get(number)
        if found is None:
            return None
        if not found.thumbnail:  # of an earlier start
            image = cv2.imread(str(self._path(number)), cv2.IMREAD_COLOR)
            if image is not None:
                found.thumbnail = thumbnail_jpeg(np.asarray(image, np.uint8))
        return found.thumbnail or None

    # Learning.

    def learn(self, by: str) -> None:
        """Begins to learn from the collected parts.

        Raises:
            ConfigError: There are too few, or it learns or deploys already.
        """
        with self._lock:
            self._check("collecting", "paused", "learned")
            if len(self._parts) < FRAMES_MIN:
                raise ConfigError(
                    "too few good parts", expected=f"{FRAMES_MIN} at least, better {PARTS_MIN}", actual=len(self._parts)
                )
            self._step, self._error, self._result = "learning", "", None
        (self._folder / RESULT).unlink(missing_ok=True)
        self._copy_rejects()
        self._run("learning", lambda: self._child("learn", by), self._learned)

    def _copy_rejects(self) -> None:
        """Copies the kept images of the last rejects, to be judged by what is learned."""
        place = self._folder / BAD
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        for reject in self._screen.feed.rejects():
            if reject.row.verdict != "reject" or reject.mark == "false_reject":
                continue
            path = self._screen.archive.find(reject.row)
            if path is not None and len(list(place.iterdir())) < BAD_MAX:
                with contextlib.suppress(OSError):  # it has made way
                    shutil.copyfile(path, place / f"{reject.number}.png")

    def _learned(self) -> None:
        self._result = decode_json((self._folder / RESULT).read_bytes(), type=LearningResult)
        self._step = "learned"

    def _child(self, how: str, by: str, *more: str) -> None:
        device = self._screen.agent.device
        version = time.strftime("%Y%m%d.%H%M%S")
        source = f"{len(self._parts)} good parts, shown at the operator screen of {device} by {by}"
        arguments = [how, str(self._folder), f"learned-{device}"[:60], version, source, *more]
        result = run_in_child(
            MODULE, arguments, what="learning", timeout_s=LEARNING_TIMEOUT_S, should_stop=self._should_stop
        )
        if result.failure:
            raise ConfigError(result.failure)

    def _should_stop(self) -> bool:
        return self._cancel.is_set() or self._screen.is_ending

    def _run(self, name: str, work: Callable[[], object], done: Callable[[], object]) -> None:
        """Runs work in a thread; an error goes to the page, and back to the collected parts."""

        def run() -> None:
            try:
                work()
                with self._lock:
                    done()
            except FetchStopped:
                with self._lock:
                    self._step = "paused" if self._parts else "empty"
            except (LinesideError, OSError, ValueError) as error:
                log.error("%s at the screen: %s", name, error)
                with self._lock:
                    self._error, self._step = str(error), "paused"
            self._screen.viewers.notify()

        self._cancel.clear()
        self._thread = threading.Thread(target=run, name="learning-wizard", daemon=True)
        self._thread.start()

    # Accepting.

    def accept(self, score: float, by: str) -> None:
        """Has what was learned deployed.

        Args:
            score: Threshold, as a score of what was learned, whose own is 0.5.

        Raises:
            ConfigError: Nothing was learned.
        """
        with self._lock:
            self._check("learned")
            self._step, self._error, self._wanted, self._is_replaced = "deploying", "", "", False

        def work() -> None:
            accepted = self._folder / ACCEPTED
            shutil.rmtree(accepted, ignore_errors=True)
            if abs(score - 0.5) > 1e-3:
                self._child("move", by, repr(score))
            else:
                shutil.copytree(self._folder / BUNDLE, accepted)
            after = self._access.machine().hub_desired
            self._after = generation(after)
            event = self._access.requests.add_bundle(accepted, by, after=after)
            asked = None if event.desired is None else event.desired.bundle
            self._wanted = "" if asked is None else asked.sha256
            self._access.deploy(event)

        self._run("deployment", work, lambda: None)

    def discard(self) -> None:
        """Ends what is being done, and forgets all parts; what was deployed stays."""
        self._cancel.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10.0)
        with self._lock:
            self._step, self._error, self._result = "empty", "", None
            self._wanted, self._is_replaced = "", False
            self._parts.clear()
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Ends learning; the next start goes on with the collected parts."""
        self._cancel.set()
        if self._thread is not None:
            self._thread.join(10.0)

    # For the page.

    def status(self) -> dict[str, Any]:
        """Returns where it stands."""
        machine = self._access.machine()
        with self._lock:
            if self._step == "deploying":
                self._follow(machine)
            return {
                "step": self._step,
                "parts": [
                    {"number": one.number, "part_id": one.part_id, "captured_at_ns": one.captured_at_ns}
                    for one in self._parts.values()
                ],
                "least": FRAMES_MIN,
                "advised": PARTS_MIN,
                "most": PARTS_MAX,
                "progress": self._progress(),
                "error": self._error,
                "result": self._result,
                "deployment": machine.state if self._wanted or self._is_replaced else "",
                "active": bool(self._wanted) and _is_installed(machine, self._wanted),
                "replaced": self._is_replaced,
                "has_hub": self._screen.agent.link is not None,
            }

    def _follow(self, machine: BundleMachine) -> None:
        """Goes back to what was learned where the deployment of it ended badly, or the hub desires another bundle."""
        asked = machine.wanted
        if not self._wanted or (asked is None and _is_installed(machine, self._wanted)):
            return
        if asked is None or asked.sha256 != self._wanted:
            if generation(machine.hub_desired) != self._after:  # also where it did before it was asked for here
                self._step, self._wanted, self._is_replaced = "learned", "", True
        elif machine.state in ("failed", "rolled_back"):
            self._error = "" if machine.error is None else machine.error.message
            self._step, self._wanted = "learned", ""

    def _progress(self) -> str:
        try:
            return (self._folder / PROGRESS).read_text(errors="replace")[:80] if self._step == "learning" else ""
        except OSError:
            return ""

    def _check(self, *allowed: Step) -> None:
        if self._step not in allowed:
            raise ConfigError(f"the wizard is at {self._step!r}", expected=" or ".join(allowed), action="Wait for it.")


def _is_installed(machine: BundleMachine, sha256: str) -> bool:
    return machine.state == "active" and machine.installed is not None and machine.installed.sha256 == sha256
