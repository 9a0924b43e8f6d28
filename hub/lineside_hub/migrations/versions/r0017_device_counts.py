"""The counts of hours as the device counts: without challenge parts, and with the defect types of all cameras.

Challenge parts are known to be bad, so they are no production; the totals of a device go on counting every result. A
result has the findings of the camera that decided, and in ``views`` those of each camera.
"""

from __future__ import annotations

from alembic import op

from lineside_hub.migrations.versions.r0013_counts import (
    JSON_POSTGRES,
    TYPES_POSTGRES,
    TYPES_SQLITE,
    count_statements,
)

revision = "0017"
down_revision = "0016"

_PRODUCED = "substr({}part_id, 1, 10) <> 'challenge:'"
_READ = (
    *("device", "epoch", "seq", "captured_at_ns", "verdict", "bundle", "recipe"),
    *("detections", "measurements", "readings", "views"),
)

_FINDINGS = ("detections", "measurements", "readings")
_OF_RESULT = ", ".join(f"'{name}', json(r.{name})" for name in _FINDINGS)
_OF_VIEW = ", ".join(f"json_extract(w.value, '$.{name}')" for name in _FINDINGS)
_TYPES_SQLITE = (
    f"JOIN json_each('[' || json_object({_OF_RESULT}) || iif(r.views = '[]', '', ',') || substr(r.views, 2)) w "
    f"JOIN json_each(json_array({_OF_VIEW})) l JOIN json_each(l.value) e"
)
_VIEWS_POSTGRES = f"json_array_elements({JSON_POSTGRES.format('views')}) v"
_TYPES_POSTGRES = (
    TYPES_POSTGRES.removesuffix(") t")
    + f" UNION ALL SELECT e ->> 0 FROM {_VIEWS_POSTGRES}, json_array_elements(v -> 'detections') e"
    + "".join(
        f" UNION ALL SELECT e ->> 'name' FROM {_VIEWS_POSTGRES}, json_array_elements(coalesce(v -> '{name}', '[]')) e "
        f"WHERE e -> '{good}' IS NULL"
        for name, good in (("measurements", "in_tolerance"), ("readings", "accepted"))
    )
    + ") t"
)

# As in revision 0013: a row at a time, without the sorting that counting many rows needs.
_COUNT_ROW = (
    "INSERT INTO result_hours (hour, device, bundle, recipe, verdict, results) "
    "SELECT coalesce(new.captured_at_ns, 0) / 3600000000000, new.device, coalesce(new.bundle, ''), new.recipe, "
    f"new.verdict, 1 WHERE {_PRODUCED.format('new.')} "
    "ON CONFLICT (hour, device, bundle, recipe, verdict) DO UPDATE SET results = results + 1; "
    "INSERT INTO result_totals (device, verdict, results, fallbacks, cache_hits) "
    "VALUES (new.device, new.verdict, 1, new.fallbacks, new.cache_hits) "
    "ON CONFLICT (device, verdict) DO UPDATE SET results = results + 1, "
    "fallbacks = fallbacks + excluded.fallbacks, cache_hits = cache_hits + excluded.cache_hits"
)


def upgrade() -> None:
    """Takes them out of the present counts, and makes the triggers leave them out."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    count_results, count_totals, count_before = count_statements(sqlite=sqlite)
    old, new = (TYPES_SQLITE, _TYPES_SQLITE) if sqlite else (TYPES_POSTGRES, _TYPES_POSTGRES)
    count_defects = count_before.replace(old, new)
    is_production = _PRODUCED.format("")
    challenges = f"(SELECT * FROM results WHERE NOT {is_production})"
    _execute(count_results.format(rows=challenges).replace("count(", "-count("))
    changed = f"(SELECT * FROM results WHERE views <> '[]' OR NOT {is_production})"
    _execute(count_before.format(rows=changed).replace("count(", "-count("))
    _execute(count_defects.format(rows=f"(SELECT * FROM results WHERE views <> '[]' AND {is_production})"))
    for table in ("result_hours", "defect_hours"):
        _execute(f"DELETE FROM {table} WHERE results <= 0")
    if sqlite:
        _replace_sqlite_triggers(count_defects)
        op.execute("PRAGMA user_version = 17")
        return
    produced = f"(SELECT * FROM new_rows WHERE {is_production})"
    of_rows = ((count_results, produced), (count_totals, "new_rows"), (count_defects, produced))
    body = "; ".join(text.format(rows=rows) for text, rows in of_rows)
    _execute(
        "CREATE OR REPLACE FUNCTION count_new_results() RETURNS trigger LANGUAGE plpgsql AS $count$ "
        f"BEGIN {body}; RETURN NULL; END $count$"
    )


def _replace_sqlite_triggers(count_defects: str) -> None:
    row = f"(SELECT {', '.join(f'new.{name} AS {name}' for name in _READ)})"
    is_counted = f"new.verdict NOT IN ('pass', 'unknown') AND {_PRODUCED.format('new.')}"
    for name, only, body in (
        ("results_counted", "new.verdict <> 'unknown'", _COUNT_ROW),
        ("defects_counted", is_counted, count_defects.format(rows=row)),
    ):
        _execute(f"DROP TRIGGER {name}")
        _execute(f"CREATE TRIGGER {name} AFTER INSERT ON results WHEN {only} BEGIN {body}; END")


def _execute(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)  # as it is: SQLAlchemy would take a colon for a parameter
