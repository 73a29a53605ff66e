"""Leases in host-local's layout on disk, and the delegation to other plugins' IPAM.

Imports attachment, config and spec.
"""
