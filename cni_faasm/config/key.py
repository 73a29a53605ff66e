"""What the registry knows of a configuration key; the keys are in keys."""


class Key:
    """One key of the configuration.

    kind: type and unit of the value. default, meaning: as docs/configuration.md tells them. at: the
    object in which it stands, "" for the plugin's own, with [] after what is a list. also: other
    objects that may have it.
    """

    __slots__ = ("also", "at", "default", "kind", "meaning", "name")

    def __init__(
        self,
        name: str,
        kind: str,
        default: str = "",
        meaning: str = "",
        *,
        at: str = "",
        also: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.meaning = meaning
        self.at = at
        self.also = also
