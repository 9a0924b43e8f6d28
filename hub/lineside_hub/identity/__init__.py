"""Certificates, enrolment and access lists."""

__all__ = ["access_lists", "authority", "broker_reload", "registrar", "secure_site"]
