"""Serves Canaille in its own environment; the argument is the JSON file of an ``identity_provider.CanailleSetup``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from werkzeug.serving import make_server


def serve(setup: dict[str, Any]) -> None:
    host = f"127.0.0.1:{setup['port']}"
    config: dict[str, Any] = {
        "SECRET_KEY": "of a test",
        "SERVER_NAME": host,
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory", "ENABLE_REGISTRATION": False, "JAVASCRIPT": False, "HTMX": False},
        "CANAILLE_OIDC": {
            "ACTIVE_JWKS": setup["active"],
            "INACTIVE_JWKS": setup["inactive"] or None,
            "USERINFO_MAPPING": {"PREFERRED_USERNAME": "{{ user.user_name }}"},
        },
    }
    app = create_app(config)
    with app.app_context():
        backend = Backend.instance
        users = {}
        for person in setup["people"]:
            users[person["name"]] = models.User(
                user_name=person["name"],
                formatted_name=person["name"].title(),
                family_name=person["name"].title(),
                emails=[person["email"]],
                password=setup["password"],
            )
            backend.save(users[person["name"]])
        for group in sorted({name for person in setup["people"] for name in person["groups"]}):
            members = [users[person["name"]] for person in setup["people"] if group in person["groups"]]
            backend.save(models.Group(display_name=group, members=members))
        client = models.Client(
            client_id=setup["client"],
            client_secret=setup["secret"],
            client_name="lineside",
            client_uri=setup["origin"],
            redirect_uris=[f"{setup['origin']}/sign-in/provider/answer"],
            post_logout_redirect_uris=[f"{setup['origin']}/sign-in"],
            token_endpoint_auth_method="client_secret_basic",
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "profile", "email", "groups"],
        )
        backend.save(client)
        client.audience = [client]  # as Canaille's own page makes it: the audience of the ID token
        backend.save(client)
    make_server("127.0.0.1", setup["port"], app, threaded=True).serve_forever()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_bytes()))
