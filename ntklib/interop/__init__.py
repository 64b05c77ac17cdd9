"""Bridges to other libraries. A bridge needs an optional dependency, and is loaded only if it is imported by name."""
