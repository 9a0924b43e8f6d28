"""Routes of the set-up views: for the role ``set_up``, where ``control = true``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lineside_agent.screen.people import Visitor
from lineside_agent.screen.routing import (
    RouteContext,
    ScreenRoute,
    jpeg_response,
    json_response,
    read_body,
    require_control,
)
from lineside_agent.screen.set_up.camera_view import WHOLE, Area
from lineside_agent.screen.set_up.learning_wizard import LearningWizard
from lineside_agent.screen.set_up.region_editor import REGIONS_MAX, EditedRegion, RegionResult
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError


class RegionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The regions of a camera, in place of those that hold."""

    regions: Annotated[tuple[EditedRegion, ...], msgspec.Meta(max_length=REGIONS_MAX)]


class LearningRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the wizard.

    Attributes:
        do: ``collect``: take good parts; ``pause``; ``remove`` one of them; ``learn`` from them; ``discard``
            everything; ``accept`` what was learned.
        part: Of ``remove``.
        score: Threshold of ``accept``, as a score of what was learned, whose own is 0.5.
    """

    do: Literal["collect", "pause", "remove", "learn", "discard", "accept"]
    part: int = -1
    score: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5


async def overview(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns which cameras there are, and whether the wizard is offered."""
    views = _views(routes)
    return json_response({"cameras": views.sources, "learning": views.wizard is not None})


async def look(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns the figures of a camera's newest frame."""
    view, area = _views(routes).camera(request.path_params["camera"]), _area(request)
    return json_response(await routes.run_in_worker(lambda: view.look(area)))


async def picture(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns the frame of the last look."""
    view, number = _views(routes).camera(request.path_params["camera"]), request.path_params["number"]
    return jpeg_response(await routes.run_in_worker(lambda: view.picture(number)))


async def regions(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns the regions of a camera, where changed ones go, and how the last change went."""
    views, index = _views(routes), request.path_params["camera"]
    machine = views.access.configuration.machine
    status: dict[str, Any] = await routes.run_in_worker(lambda: views.editor(index).status(views.camera(index).size))
    error = "" if machine.error is None else machine.error.message
    return json_response({**status, "state": machine.state, "error": error})


async def save_regions(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Applies changed regions, or returns the TOML to hand in."""
    views, index = _views(routes), request.path_params["camera"]
    given = await read_body(request, RegionRequest)

    def work() -> RegionResult:
        size = views.camera(index).size
        if size is None:
            raise ConfigError("the camera has shown no picture", action="Wait for one.")
        return views.editor(index).save(given.regions, size, visitor.name)

    kinds = ", ".join(one.kind for one in given.regions) or "none"
    subject = views.sources[index] if index < len(views.sources) else ""
    return json_response(await routes.perform(visitor, "regions", work, subject=subject, detail=kinds))


async def wizard_status(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns where the wizard stands."""
    return json_response(await routes.run_in_worker(_wizard(routes).status))


async def wizard_part(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Returns the thumbnail of a collected part."""
    wizard, number = _wizard(routes), request.path_params["part"]
    return jpeg_response(await routes.run_in_worker(lambda: wizard.thumbnail(number)))


async def wizard_step(routes: RouteContext, request: Request, visitor: Visitor) -> Response:
    """Takes a step of the wizard."""
    wizard = _wizard(routes)
    given = await read_body(request, LearningRequest)

    def work() -> None:
        if given.do == "remove":
            wizard.remove(given.part)
        elif given.do == "accept":
            wizard.accept(given.score, visitor.name)
        elif given.do == "learn":
            wizard.learn(visitor.name)
        elif given.do == "collect":
            wizard.collect()
        elif given.do == "pause":
            wizard.pause()
        else:
            wizard.discard()

    detail = f"{given.score:.2f}" if given.do == "accept" else str(given.part) if given.do == "remove" else ""
    await routes.perform(visitor, "learn good parts", work, subject=given.do, detail=detail)
    return json_response(wizard.status())


def _views(routes: RouteContext) -> SetUpViews:
    require_control(routes.screen)
    if routes.set_up is None:
        raise InputNotFoundError("this screen has no set-up views", action="")
    return routes.set_up


def _wizard(routes: RouteContext) -> LearningWizard:
    found = _views(routes).wizard
    if found is None:
        raise RequestError(
            "this device may not learn at the screen: no control over what runs",
            status=403,
            action="Set learn = true under [screen] in agent.toml, on a device with one camera.",
        )
    return found


def _area(request: Request) -> Area:
    given = request.query_params.get("area", "")
    if not given:
        return WHOLE
    sides = [float(side) for side in given.split(",")]
    if len(sides) != 4 or not all(0 <= side <= 1 for side in sides):
        raise ValueError("an area has four shares")
    return (sides[0], sides[1], sides[2], sides[3])


SET_UP_ROUTES = (
    ScreenRoute("GET", "/set-up", "set_up", overview),
    ScreenRoute("GET", "/cameras/{camera:int}", "set_up", look),
    ScreenRoute("GET", "/cameras/{camera:int}/{number:int}.jpg", "set_up", picture),
    ScreenRoute("GET", "/cameras/{camera:int}/regions", "set_up", regions),
    ScreenRoute("POST", "/cameras/{camera:int}/regions", "set_up", save_regions),
    ScreenRoute("GET", "/learning", "set_up", wizard_status),
    ScreenRoute("GET", "/learning/{part:int}.jpg", "set_up", wizard_part),
    ScreenRoute("POST", "/learning", "set_up", wizard_step),
)
