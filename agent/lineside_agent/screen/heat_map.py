"""Heat maps for the screen: of one of the last parts, and of a record.

A map is made only for a page that asks for it. The model runs once more for each, in the screen's worker thread; maps
of the live view are made one at a time with a pause after each, so that pages can't keep the engine from the line.
"""

from __future__ import annotations

import asyncio
import collections

import cv2

from lineside_agent.screen.feed import from_jpeg
from lineside_agent.screen.state import ScreenState
from lineside_link.messages import ResultRow
from lineside_models.draw import overlay_heat
from lineside_models.frame import Frame, UInt8Array
from lineside_models.image_file import encode_jpeg
from lineside_models.inspector import Inspector
from lineside_models.vision.heat import heat_of
from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError

PAUSE_S = 0.5
"""After a map of the live view, before the next one."""

WAITING_MAX = 8
"""Pages that wait for a map of the live view."""

KEPT = 4

_QUALITY = 88


def heat_picture(screen: ScreenState, row: ResultRow, view: int, image: UInt8Array) -> bytes:
    """Returns an image of a record under its heat map, as JPEG.

    Raises:
        ConfigError: The loaded bundle has no heat map, or another one judged.
    """
    name = row.views[view].source if row.views else row.source
    with screen.active.use() as loaded:
        if loaded is None or loaded.bundle.digest != row.bundle_sha256:
            raise ConfigError("another bundle runs now", expected=row.bundle, action="")
        inspector = loaded.cameras.get(name, loaded.inspector)
        if not isinstance(inspector, Inspector):
            raise ConfigError("a bundle of several models has no heat map", action="")
        heat = heat_of(inspector, [Frame(image=image, source=name)])
    shown = overlay_heat(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image, heat)
    return encode_jpeg(shown, _QUALITY)


class LiveHeat:
    """Heat maps of the last parts, each made once for all pages; in the server's loop."""

    def __init__(self, screen: ScreenState) -> None:
        self._screen = screen
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._free_s = 0.0
        self._made: collections.OrderedDict[tuple[int, int], bytes] = collections.OrderedDict()

    async def get(self, number: int, view: int) -> bytes:
        """Returns the image of a camera of one of the last parts under its heat map, as JPEG.

        Raises:
            InputNotFoundError: The part has made way.
            RequestError: Too many pages wait.
            ConfigError: As `heat_picture`.
        """
        found = self._screen.feed.picture(number, view)  # now: it may make way during the wait
        if found is None:
            raise InputNotFoundError("this part has made way", action="")
        if self._waiting >= WAITING_MAX:
            raise RequestError("many pages wait for a heat map", status=429, action="Try again.")
        self._waiting += 1
        try:
            async with self._turn:
                if (number, view) not in self._made:
                    await self._make(number, view, *found)
                return self._made[number, view]
        finally:
            self._waiting -= 1

    async def _make(self, number: int, view: int, row: ResultRow, picture: UInt8Array | bytes) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._free_s - loop.time()))

        def work() -> bytes:
            image = from_jpeg(picture) if isinstance(picture, bytes) else picture
            return heat_picture(self._screen, row, view, image)

        try:
            self._made[number, view] = await loop.run_in_executor(self._screen.worker, work)
        finally:
            self._free_s = loop.time() + PAUSE_S
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
