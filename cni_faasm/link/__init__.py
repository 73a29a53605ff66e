"""The pair and its surroundings: namespaces, routes, what the kernel offers, ifbs on the host.

Imports ipam, attachment, limits, config, netlink and spec.
"""
