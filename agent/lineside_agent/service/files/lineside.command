#!/bin/sh
# `lineside` of the slot that runs.
exec /opt/lineside/current/venv/bin/python -I -m lineside "$@"
