"""ADD, DEL, CHECK, GC and STATUS: functions from a request to a result, which read as their steps.

Imports everything but the edge and the tool.
"""
