"""Commands that make and judge models."""
