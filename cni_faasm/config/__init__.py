"""The network's configuration: its keys, their units and defaults, near misses, loading.

Imports spec.
"""
