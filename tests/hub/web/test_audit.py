"""The audit log: one row for each change, and what a changed or removed row looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_hub.results.database import Database
from lineside_hub.web import audit
from tests.worlds.dashboard import PASSWORD, DashboardWorld
from tests.worlds.hub import make_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    make_database(tmp_path)
    opened = Database.open(tmp_path)
    yield opened
    opened.close()


def add_rows(database: Database, count: int) -> None:
    for number in range(count):
        with database.transaction() as connection:
            audit.add(connection, who="Ada", action="set account", subject=f"s{number}", after={"role": "watch"})


def test_each_change_leaves_one_row_with_what_was_before_and_after(dashboard: DashboardWorld) -> None:
    client = dashboard.client("administer")
    rows = len(client.json("GET", "/api/v1/audit"))
    account = {"name": "Vera", "role": "watch", "password": PASSWORD}
    client.json("POST", "/api/v1/accounts", account)
    client.json("POST", "/api/v1/accounts", {"name": "Vera", "role": "operate"})
    assert client.send("POST", "/api/v1/accounts", {**account, "password": "short"})[0] == 409
    client.json("DELETE", "/api/v1/accounts/Vera")
    assert dashboard.client("watch").send("POST", "/api/v1/accounts", account)[0] == 403
    added = client.json("GET", "/api/v1/audit")[:-rows] if rows else client.json("GET", "/api/v1/audit")
    assert [(one["who"], one["action"], one["before"], one["after"]) for one in reversed(added)] == [
        ("Ada", "set account", "", '{"role":"watch","password":true}'),
        ("Ada", "set account", '{"role":"watch"}', '{"role":"operate","password":false}'),
        ("Ada", "set account", '{"role":"operate"}', '{"role":"watch","password":true}'),
        ("Ada", "remove account", '{"role":"operate"}', ""),
    ]
    assert [bool(one["error"]) for one in reversed(added)] == [False, False, True, False]
    assert PASSWORD not in str(added) and client.json("GET", "/api/v1/audit/verification")["problems"] == []


def test_what_a_kill_leaves_pending_becomes_a_row(database: Database) -> None:
    add_rows(database, 1)
    audit.begin(database, who="Otto", address="10.0.0.5", action="start rollout", subject="line-a")
    assert [audit.recover(database), audit.recover(database)] == [1, 0]
    [entry, _] = audit.list_entries(database)
    assert (entry.who, entry.error) == ("Otto", audit.UNKNOWN_OUTCOME)
    assert audit.verify(database).problems == ()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE audit SET who = 'Eve' WHERE id = 3", "row 3 is changed"),
        ("UPDATE audit SET digest = 'x' WHERE id = 3", "row 3 is changed"),
        ("DELETE FROM audit WHERE id = 3", "rows 3 to 3 are removed"),
        ("DELETE FROM audit WHERE id > 3", "rows 4 to 5 are removed"),
        ("DELETE FROM audit", "rows 1 to 5 are removed"),
    ],
)
def test_a_changed_or_removed_row_shows(database: Database, statement: str, problem: str) -> None:
    add_rows(database, 5)
    whole = audit.verify(database)
    assert (whole.rows, whole.problems) == (5, ())
    with database.transaction() as connection:
        connection.execute(statement)
    assert problem in audit.verify(database).problems
    add_rows(database, 1)
    assert problem in audit.verify(database).problems


def test_a_chain_that_was_computed_anew_does_not_lead_to_an_earlier_head(database: Database) -> None:
    add_rows(database, 3)
    head = audit.verify(database).head
    add_rows(database, 1)
    assert audit.verify(database, head=head).problems == ()
    with database.transaction() as connection:
        connection.execute("DELETE FROM audit")
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'audit'")
    add_rows(database, 4)
    assert audit.verify(database).problems == () and audit.verify(database, head=head).problems != ()
