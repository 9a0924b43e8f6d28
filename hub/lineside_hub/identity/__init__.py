"""Certificates, enrolment and access lists."""
