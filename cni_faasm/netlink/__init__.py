"""Codecs of what the kernel is told and tells, and the one owner of sockets.

Imports spec (addresses).
"""
