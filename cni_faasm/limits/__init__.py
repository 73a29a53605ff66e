"""What tc holds at one end of a pair: shapes, their scope, their drifts.

Imports netlink, config and spec.
"""
