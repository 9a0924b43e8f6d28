"""Modbus: register map, server and client."""
