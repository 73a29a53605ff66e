"""What the CNI specification says: requests, results of every version, errors, and their JSON.

Imports nothing of ours.
"""
