"""Setting up a board that already runs, over its serial console and over SSH."""
