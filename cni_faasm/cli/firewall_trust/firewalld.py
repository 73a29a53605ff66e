"""Ask firewalld by D-Bus in which zones sources are, and put them there.

What holds now and what is kept for the next start or reload are two configurations of its, and
each has methods of its own (firewalld.dbus(5)).
"""

from typing import Any, Self

from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call
from jeepney.bus_messages import DBus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from cni_faasm.cli.fault import ToolError

NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_NOW = DBusAddress(_PATH, NAME, f"{NAME}.zone")
_CONFIG = DBusAddress(f"{_PATH}/config", NAME, f"{NAME}.config")
_TIMEOUT_S = 30.0  # it answers nobody while it loads its rules
_DONE_BEFORE = ("ALREADY_ENABLED", "NOT_ENABLED", "ZONE_ALREADY_SET", "UNKNOWN_SOURCE")


class AbsentError(ToolError):
    """Say that no firewalld runs on this host."""


class Firewalld:
    """The firewalld of this host.

    Raises: AbsentError from the constructor when none runs; ToolError with what it says when
    it refuses.
    """

    def __init__(self) -> None:
        try:
            self._bus: DBusConnection = open_dbus_connection("SYSTEM")
        except OSError:
            raise AbsentError("firewalld does not run: there is no system bus") from None
        [runs] = self._answer(DBus().NameHasOwner(NAME))
        if not runs:
            self.close()
            raise AbsentError("firewalld does not run on this host")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bus.close()

    def zone_now(self, source: str) -> str:
        """Return the zone that a source is in, "" when it is in none."""
        return str(self._call(_NOW, "getZoneOfSource", source))

    def zone_kept(self, source: str) -> str:
        """Return the zone that it is in from the next start or reload on."""
        return str(self._call(_CONFIG, "getZoneOfSource", source))

    def sources_now(self) -> dict[str, list[str]]:
        """Return the sources of each zone that has any."""
        zones = self._call(_NOW, "getActiveZones")
        return {zone: list(its["sources"]) for zone, its in zones.items() if "sources" in its}

    def add(self, zone: str, source: str) -> bool:
        """Put a source into a zone, now and for good. Returns: whether it was not there yet."""
        kept = self._change(self._kept_zone(zone), "addSource", source)
        return self._change(_NOW, "addSource", zone, source) or kept

    def remove(self, zone: str, source: str) -> bool:
        """Take a source out of a zone, now and for good. Returns: whether it was there."""
        kept = self._change(self._kept_zone(zone), "removeSource", source)
        return self._change(_NOW, "removeSource", zone, source) or kept

    def _kept_zone(self, zone: str) -> DBusAddress:
        path = self._call(_CONFIG, "getZoneByName", zone)
        return DBusAddress(path, NAME, f"{NAME}.config.zone")

    def _change(self, address: DBusAddress, method: str, *words: str) -> bool:
        try:
            self._call(address, method, *words)
        except ToolError as error:
            if any(word in str(error) for word in _DONE_BEFORE):
                return False
            raise
        return True

    def _call(self, address: DBusAddress, method: str, *words: str) -> Any:
        """Call a method whose arguments are texts; return the one value of its answer."""
        body = self._answer(new_method_call(address, method, "s" * len(words) or None, words))
        return body[0] if body else None

    def _answer(self, message: Any) -> Any:
        message.header.flags |= MessageFlag.no_auto_start
        try:
            reply = self._bus.send_and_get_reply(message, timeout=_TIMEOUT_S)
        except (OSError, EOFError) as error:
            raise ToolError(f"firewalld gave no answer: {type(error).__name__} {error}") from None
        if reply.header.message_type == MessageType.error:
            name = reply.header.fields.get(HeaderFields.error_name, "an error")
            text = str(reply.body[0]) if reply.body else name
            raise ToolError(f"firewalld refuses: {text}")
        return reply.body
