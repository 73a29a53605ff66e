"""The six verbs of the CNI specification, each a function from a request to a result."""
