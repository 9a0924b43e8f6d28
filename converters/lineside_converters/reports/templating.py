"""Renders the templates of the reports: every page has the head and the style sheet of the report kit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2
import markupsafe

from lineside_runtime.reports import markup


def render(
    template: str, *, title: str, refresh_s: int = 0, package: str = "lineside_converters.reports", **values: Any
) -> str:
    """Returns a page. Values are escaped; those that are HTML are marked as ``safe`` by the template.

    Args:
        template: Name in the folder ``templates`` of a package; it holds what stands in the page's body.
        title: Title of the browser's tab.
        refresh_s: The browser reads the page again after so many seconds; 0 for never.
        package: Whose template it is.
    """
    body = _environment(package).get_template(template).render(values)
    return markup.document(title, body, refresh_s=refresh_s)


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    names = dict.fromkeys((package, __package__))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in names]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {each.__name__: _as_html(each) for each in (markup.tiles, markup.cautions, markup.legend)}
    environment.filters["megabytes"] = megabytes
    environment.filters["between"] = between
    return environment


def _as_html(element: Callable[[Any], str]) -> Callable[[Any], markupsafe.Markup]:
    return lambda value: markupsafe.Markup(element(value))


def megabytes(size: float) -> str:
    """Returns a size in bytes as text."""
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def between(interval: dict[str, Any], form: str = "{:.3f}") -> str:
    """Returns an interval with its confidence as text."""
    return f"{form.format(interval['low'])} to {form.format(interval['high'])} at {interval['confidence']:.0%}"
