"""Bridges to other libraries. Each is an optional extra, loaded only when its module is imported by name."""
