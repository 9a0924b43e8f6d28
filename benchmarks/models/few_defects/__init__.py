"""Few labelled defects of a new kind."""
