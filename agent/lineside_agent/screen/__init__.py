"""The operator screen: a web page of the agent, which shows the line and takes what people say of it.

::

    pipeline ─► feed.py ─┐                      ┌─ static/  page, script, style sheet, texts
    status   ─► alarms.py├─ screen.py ─ routes.py
    records  ─► shift.py ┘                  └ guard.py  who may do what

- It runs in one thread of its own. The line never waits for it: a record is handed over after the line was told its
  verdict, and a browser that does not read gets fewer parts.
- A page holds one event stream (``/events``), which says what there is; images are fetched when it says so.

Needs ``pip install 'lineside[screen]'``.
"""

__all__ = ["people"]
