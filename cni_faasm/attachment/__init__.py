"""What is promised, kept and undone: the plan, its record on disk, the undo stack.

Pure but for the files it keeps. Imports limits, config and spec.
"""
