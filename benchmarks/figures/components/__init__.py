"""The renderers, one module a component."""
