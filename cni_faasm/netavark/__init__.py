"""Be a plugin of netavark's, podman's network stack since version 5, which knows no CNI.

Translation only: netavark's documents become CNI configurations and requests, the verbs do what
they do for every runtime, and what they answer becomes netavark's answer. All of it is pure but
`edge`, `stale` and `taken`; nothing else of the plugin knows of this package.
"""

VERBS = ("create", "setup", "teardown", "info")
API_VERSION = "1.0.0"
