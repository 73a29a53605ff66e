"""What nftables holds: masquerading, guards, backstops, seals; and the reading of others' firewalls.

Imports link and what lies below it.
"""
