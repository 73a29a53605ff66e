"""cni-faasm: a container network plugin that rate-limits both ends of the pair."""

__version__ = "0.1.0"
