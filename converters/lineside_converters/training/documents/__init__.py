"""Training of a token classifier that finds the entities of documents."""

__all__ = ["config", "fitting", "trainer"]
