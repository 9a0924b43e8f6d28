"""Counts of results by hour, kept by triggers, and indexes for the search of results.

A count over ten million results takes seconds, and the dashboard needs it in less than one. The triggers run in the
transaction that inserts the results: a repeat, which inserts nothing, is not counted again.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_HOUR = "coalesce(r.captured_at_ns, 0) / 3600000000000"
_LABELS = "coalesce(r.bundle, '') AS bundle, r.recipe"

# Ordered, so that two hubs with one PostgreSQL lock the same rows in the same order.
_COUNT_RESULTS = (
    "INSERT INTO result_hours (hour, device, bundle, recipe, verdict, results) "
    f"SELECT {_HOUR} AS hour, r.device, {_LABELS}, r.verdict, count(*) FROM {{rows}} r WHERE r.verdict <> 'unknown' "
    "GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 "
    "ON CONFLICT (hour, device, bundle, recipe, verdict) "
    "DO UPDATE SET results = result_hours.results + excluded.results"
)
_COUNT_TOTALS = (
    "INSERT INTO result_totals (device, verdict, results, fallbacks, cache_hits) "
    "SELECT r.device, r.verdict, count(*), sum(r.fallbacks), sum(r.cache_hits) FROM {rows} r "
    "WHERE r.verdict <> 'unknown' GROUP BY 1, 2 ORDER BY 1, 2 "
    "ON CONFLICT (device, verdict) DO UPDATE SET results = result_totals.results + excluded.results, "
    "fallbacks = result_totals.fallbacks + excluded.fallbacks, "
    "cache_hits = result_totals.cache_hits + excluded.cache_hits"
)

# The types are what `Query.defect` finds: boxes, values out of tolerance, marks that are not accepted.
TYPES_SQLITE = (
    "JOIN json_each(json_array(json(r.detections), json(r.measurements), json(r.readings))) l JOIN json_each(l.value) e"
)
_TYPE_SQLITE = "json_extract(e.value, iif(e.type = 'array', '$[0]', '$.name'))"
_BAD_SQLITE = (
    "coalesce(json_extract(e.value, '$.in_tolerance'), json_extract(e.value, '$.accepted')) IS NULL "
    f"AND {_TYPE_SQLITE} IS NOT NULL"
)

# PostgreSQL cannot read the character NUL of a JSON text: such a row is stored, and has no types here.
JSON_POSTGRES = "(CASE WHEN strpos(r.{0}, '\\u0000') > 0 THEN '[]' ELSE r.{0} END)::json"
TYPES_POSTGRES = (
    "CROSS JOIN LATERAL ("
    f"SELECT e ->> 0 AS type FROM json_array_elements({JSON_POSTGRES.format('detections')}) e UNION ALL "
    f"SELECT e ->> 'name' FROM json_array_elements({JSON_POSTGRES.format('measurements')}) e "
    "WHERE e -> 'in_tolerance' IS NULL UNION ALL "
    f"SELECT e ->> 'name' FROM json_array_elements({JSON_POSTGRES.format('readings')}) e "
    "WHERE e -> 'accepted' IS NULL) t"
)

_READ = (
    *("device", "epoch", "seq", "captured_at_ns", "verdict", "bundle", "recipe"),
    *("detections", "measurements", "readings"),
)


def _count_defects(kind: str, types: str, bad: str) -> str:
    return (
        "INSERT INTO defect_hours (hour, device, bundle, recipe, type, results) "
        f"SELECT {_HOUR} AS hour, r.device, {_LABELS}, {kind}, count(DISTINCT r.epoch || ' ' || r.seq) "
        f"FROM {{rows}} r {types} WHERE r.verdict NOT IN ('pass', 'unknown') AND {bad} "
        "GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 "
        "ON CONFLICT (hour, device, bundle, recipe, type) "
        "DO UPDATE SET results = defect_hours.results + excluded.results"
    )


def count_statements(*, sqlite: bool) -> tuple[str, ...]:
    """Returns the statements that count the rows of ``{rows}``, a table or a subquery."""
    kind, types, bad = (
        (_TYPE_SQLITE, TYPES_SQLITE, _BAD_SQLITE) if sqlite else ("t.type", TYPES_POSTGRES, "t.type IS NOT NULL")
    )
    return _COUNT_RESULTS, _COUNT_TOTALS, _count_defects(kind, types, bad)


def upgrade() -> None:
    """Adds the tables with the counts of the present results, the triggers and the indexes."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer = sa.Integer() if sqlite else sa.BigInteger()

    def key(name: str) -> sa.Column[Any]:
        kind = integer if name == "hour" else sa.Text()
        return sa.Column(name, kind, primary_key=True, autoincrement=False)

    def number(name: str) -> sa.Column[Any]:
        return sa.Column(name, integer, nullable=False)

    labels = ("hour", "device", "bundle", "recipe")
    without_rowid = {"sqlite_with_rowid": False}
    op.create_table("result_hours", *map(key, (*labels, "verdict")), number("results"), **without_rowid)
    op.create_table("defect_hours", *map(key, (*labels, "type")), number("results"), **without_rowid)
    counts = map(number, ("results", "fallbacks", "cache_hits"))
    op.create_table("result_totals", *map(key, ("device", "verdict")), *counts, **without_rowid)
    op.create_index("results_by_device", "results", ["device", "captured_at_ns"])
    not_passed = sa.text("verdict <> 'pass'")
    op.create_index(
        "results_not_passed", "results", ["captured_at_ns"], sqlite_where=not_passed, postgresql_where=not_passed
    )
    statements = count_statements(sqlite=sqlite)
    for statement in statements:
        _execute(statement.format(rows="results"))
    if sqlite:
        _add_sqlite_triggers(statements[-1])
        op.execute("PRAGMA user_version = 13")
    else:
        _add_postgres_trigger(statements)


# A row at a time, without the sorting that counting many rows needs: half of the time.
_COUNT_ROW = (
    "INSERT INTO result_hours (hour, device, bundle, recipe, verdict, results) VALUES ("
    f"{_HOUR.replace('r.', 'new.')}, new.device, coalesce(new.bundle, ''), new.recipe, new.verdict, 1) "
    "ON CONFLICT (hour, device, bundle, recipe, verdict) DO UPDATE SET results = results + 1; "
    "INSERT INTO result_totals (device, verdict, results, fallbacks, cache_hits) "
    "VALUES (new.device, new.verdict, 1, new.fallbacks, new.cache_hits) "
    "ON CONFLICT (device, verdict) DO UPDATE SET results = results + 1, "
    "fallbacks = fallbacks + excluded.fallbacks, cache_hits = cache_hits + excluded.cache_hits"
)


def _add_sqlite_triggers(count_defects: str) -> None:
    row = f"(SELECT {', '.join(f'new.{name} AS {name}' for name in _READ)})"
    for name, only, body in (
        ("results_counted", "new.verdict <> 'unknown'", _COUNT_ROW),
        ("defects_counted", "new.verdict NOT IN ('pass', 'unknown')", count_defects.format(rows=row)),
    ):
        _execute(f"CREATE TRIGGER {name} AFTER INSERT ON results WHEN {only} BEGIN {body}; END")


def _add_postgres_trigger(statements: tuple[str, ...]) -> None:
    body = "; ".join(text.format(rows="new_rows") for text in statements)
    _execute(
        "CREATE FUNCTION count_new_results() RETURNS trigger LANGUAGE plpgsql AS $count$ "
        f"BEGIN {body}; RETURN NULL; END $count$"
    )
    _execute(
        "CREATE TRIGGER results_counted AFTER INSERT ON results REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_new_results()"
    )


def _execute(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)  # as it is: SQLAlchemy would take a colon for a parameter
