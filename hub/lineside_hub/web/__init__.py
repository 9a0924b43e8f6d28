"""The fleet dashboard: web pages and a REST API of the hub, for people and programs.

::

    server.py ─► app.py ─► pages/       one subject a module: its routes and handlers
                   │  guard.py          host, origin, rate
                   │  accounts.py       accounts, roles, sessions, tokens
                   └─ audit.py          one row for each change
    routing.py     what pages are written with      rendering.py, templates/, static/

A page module (``pages/NAME.py``, added to `pages.ROUTES`):

- Has ``ROUTES``, a tuple of `routing.DashboardRoute`: method, path, least role (``watch``, ``operate``,
  ``administer``), handler. ``menu="Results"`` puts a page into the navigation, in the order of `pages.ROUTES`.
- A handler is a plain function of a `routing.DashboardRequest`; it runs in a worker thread and may wait for a
  database. It returns ``call.page("name.html", …)``, any response of Starlette's, or a value that is sent as JSON.
- ``query`` and ``body`` are msgspec structs: decoded before the handler runs; wrong ones are answered 400. The API's
  description is made from them. A field of tuple type takes repeated form fields.
- ``call.database`` is a connection to ``hub.db`` for this request; ``call.folder`` and ``call.dashboard.config`` are
  the hub's.
- What changes something is ``POST`` or ``DELETE`` below ``/api/v1`` (`routing.API`) with an ``action``. The audit row
  is written for it, also when it fails; the handler says what stands in it:
  ``call.note(subject, before=…, after=…)``. Pages call the same routes by htmx (``hx-post``); the browser then loads
  the page again, or ``call.after``. Programs send an API token (``Authorization: Bearer``) and get JSON.
- Errors are raised as everywhere. A browser shows them as a page or above the page, a program gets JSON.
- A template extends ``base.html`` with the blocks ``title``, ``main`` and ``head``. ``{{ refresh(url) }}`` inside the
  tag with ``id="live"`` loads that part again every 5 s. Filters: ``when``, ``age``, ``size``, ``percent``. Scripts and
  styles are files in ``static/``: the content security policy allows nothing inline, not even a ``style`` attribute.
- Grey is normal; the classes ``state bad`` and ``state warn``, with a symbol, are for what is not.

Tests: `tests.worlds.dashboard.DashboardWorld` serves a hub's folder without its other threads; ``client("operate")`` is
an HTTP client of somebody of this role, ``open_page(browser, "operate", "/path")`` a page of Chromium. A new route is
added to the table in ``tests/hub/web/test_access.py``.

Needs ``pip install 'lineside[web]'``.
"""

__all__ = ["accounts", "audit"]
