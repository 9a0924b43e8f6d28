"""Training of a token classifier that finds the entities of documents."""
