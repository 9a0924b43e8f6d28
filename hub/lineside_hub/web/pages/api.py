"""The description of the REST API, as a page and as OpenAPI 3.1."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.responses import Response

from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def show(call: DashboardRequest) -> Response:
    """The page of the API."""
    return call.page("api.html", api=describe(call.dashboard.routes))


def get_description(call: DashboardRequest) -> dict[str, Any]:
    """This description, as OpenAPI 3.1."""
    return describe(call.dashboard.routes)


def describe(routes: tuple[DashboardRoute, ...]) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of the routes below `API`."""
    listed = [route for route in routes if route.is_api]
    kinds = {kind for route in listed for kind in (route.query, route.body, route.answer) if kind not in (None, bytes)}
    ordered = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(
            route, schema_of, components
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "lineside hub", "version": "1", "description": "What the fleet dashboard uses."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: DashboardRoute, schema_of: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        query = components[schema_of[route.query]["$ref"].rpartition("/")[2]]
        required = query.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in query["properties"].items()
        ]
    answer: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        answer["content"] = {"application/json": {"schema": schema_of[route.answer]}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": f"Least role: {route.role}." if route.role else "",
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()} {route.path.removeprefix(API)}").strip("_"),
        "parameters": parameters,
        "security": [{"token": []}],
        "responses": {"200": answer, "default": {"description": "An error: code, message, expected, actual, action"}},
    }
    if route.body is bytes:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    elif route.body is not None:
        content = {"application/json": {"schema": schema_of[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


ROUTES = (
    DashboardRoute("GET", "/api", "watch", show, menu="API"),
    DashboardRoute("GET", f"{API}/openapi.json", "watch", get_description),
)
