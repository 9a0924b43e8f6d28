"""Information extraction: entities and relations of a contract, by a token classifier or by rules."""
