"""What holds where a configuration says nothing, and words that it may say."""

DEFAULT_STATE_DIR = "/var/lib/cni/faasm"
DEFAULT_DATA_DIR = "/var/lib/cni/networks"
DEFAULT_PREFIX = "faasm"
DEFAULT_LOCK_TIMEOUT_MS = 10_000
DEFAULT_IPAM_TIMEOUT_MS = 60_000

GVISOR = "gvisor"  # of sandbox
