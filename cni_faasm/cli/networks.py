"""Find the networks of this host: the list files that name faasm, and their folders.

A runtime reads the files of /etc/cni/net.d in the order of their names; so do we. podman 5 has its
networks elsewhere, and leases their addresses itself.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from cni_faasm.cli import output, podman
from cni_faasm.cli.fault import ToolError
from cni_faasm.config import loading as configuration
from cni_faasm.spec import jsonio, protocol
from cni_faasm.spec.errors import CniError

CONF_DIR = "/etc/cni/net.d"
DELIVERED = "10-faasm.conflist"
PLUGIN = "faasm"
# What libcni and CRI-O read; a .conf holds one plugin without a list around it.
ENDINGS = (".conflist", ".conf", ".json")

# Files that somebody was told of, each once: several steps of a command read the folder.
_told: set[str] = set()


def _folder(context: typer.Context, given: str) -> str:
    """Refuse a folder that is not there: a slip of the pen looks like a host without networks."""
    if given in ("", CONF_DIR) or context.resilient_parsing:
        return given
    try:
        is_folder = stat.S_ISDIR(os.stat(given).st_mode)
    except PermissionError:
        raise ToolError(f"{given}: Permission denied", "run it as root") from None
    except OSError:
        is_folder = False
    if not is_folder:
        word = "is no folder" if os.path.lexists(given) else "is not there"
        raise typer.BadParameter(f"{given} {word}")
    return given


ConfDir = Annotated[
    str,
    typer.Option(
        "--conf-dir",
        metavar="DIR",
        callback=_folder,
        help="Where the host's network configurations are.",
    ),
]
StateDir = Annotated[
    str,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        callback=_folder,
        help="Where the attachment records are, if no configuration in --conf-dir says it.",
    ),
]


class Network(NamedTuple):
    """One network as its file describes it.

    document: what the plugin gets on stdin. place: of the plugin in the list.
    others: types of the plugins that come after it. faults: of a network of podman's, what its
    options have that no configuration could tell.
    """

    name: str
    path: str
    document: dict[str, object]
    place: int
    others: list[str]
    faults: tuple[str, ...] = ()


def read(path: str) -> Network | None:
    """Read a list file; None when no plugin of it is ours.

    Raises: OSError; CniError 6 for what is no JSON.
    """
    with open(path, "rb") as file:
        listed = jsonio.load_object(file.read(), path)
    folded = {key.lower(): value for key, value in listed.items()}
    plugins = folded.get("plugins")
    if plugins is None:
        plugins = [listed]
    if not isinstance(plugins, list):
        return None
    types = [_type(plugin) for plugin in plugins]
    if PLUGIN not in types:
        return None
    index = types.index(PLUGIN)
    document = dict(plugins[index])
    for key in ("name", "cniVersion"):
        value = folded.get(key.lower())
        if value is not None:
            document = {k: v for k, v in document.items() if k.lower() != key.lower()}
            document[key] = value
    return Network(str(folded.get("name", "")), path, document, index, types[index + 1 :])


def _type(plugin: Any) -> str:
    if not isinstance(plugin, dict):
        return ""
    return next((str(value) for key, value in plugin.items() if key.lower() == "type"), "")


def installed(conf_dir: str, *, quiet: bool = False) -> list[Network]:
    """Return our networks: those of a folder of CNI's, then those of podman 5's.

    A folder that is not there has none. A file that cannot be read may be of one: it is told on
    stderr, unless quiet.
    Raises: OSError when the folder cannot be read.
    """
    found = of_cni(conf_dir, quiet=quiet)
    for path, one in podman.listed():
        if isinstance(one, podman.Filed):
            found.append(Network(one.name, path, one.document, 0, [], tuple(one.faults)))
        elif not quiet:
            _pass_over(path, one)
    return found


def of_cni(conf_dir: str, *, quiet: bool = False) -> list[Network]:
    """Return our networks of a folder of CNI's alone. Raises: as `installed`."""
    found = []
    for path, network in listed(conf_dir):
        if isinstance(network, Network):
            found.append(network)
        elif not quiet:
            _pass_over(path, network)
    return found


def _pass_over(path: str, why: str) -> None:
    if path not in _told:
        _told.add(path)
        output.note(f"passed over {path}: {why}")


def listed(conf_dir: str) -> Iterator[tuple[str, Network | str]]:
    """Yield each file of a folder that is ours, or why it cannot be known whether it is.

    Raises: OSError when the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(conf_dir))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(conf_dir, name)
        if not name.endswith(ENDINGS) or os.path.isdir(path):
            continue
        if not os.path.isfile(path):
            if os.path.lexists(path):  # else it went this moment
                yield path, "it is no regular file"
            continue
        try:
            network = read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, error.strerror or str(error)
        except CniError as error:
            yield path, f"{error.msg}; {error.details}" if error.details else error.msg
        else:
            if network is not None:
                yield path, network


def find(name: str, conf: str, conf_dir: str) -> Network:
    """Return the network of that file, else of that name, else the first there is.

    Raises: ToolError, OSError.
    """
    if conf:
        try:
            network = read(conf)
        except CniError as error:
            raise ToolError(f"{conf}: {error.msg}", error.details) from None
        if network is None:
            raise ToolError(f"{conf}: no plugin of it is of type {PLUGIN}")
        return network
    # podman would give away what a pool leases of a network of its own.
    networks = of_cni(conf_dir)
    if name:
        for network in networks:
            if network.name == name:
                return network
        known = ", ".join(network.name for network in networks) or "none"
        raise ToolError(
            f"no configuration in {conf_dir} is of a faasm network {name!r}",
            f"there are: {known}; --conf FILE reads another file",
        )
    for network in networks:
        if os.path.basename(network.path) == DELIVERED:
            return network
    usual = os.path.join(conf_dir, DELIVERED)
    try:
        read(usual)
    except FileNotFoundError:
        pass
    except CniError as error:
        # Not another network in its place: the operator would get limits that are not theirs.
        raise ToolError(f"{usual}: {error.msg}", error.details) from None
    if networks:
        return networks[0]
    return _delivered(conf_dir)


def _delivered(conf_dir: str) -> Network:
    path = delivered_path()
    try:
        network = read(path)
    except FileNotFoundError:
        kind = "a damaged bundle" if getattr(sys, "frozen", False) else "a Python package"
        raise ToolError(
            f"no network: {conf_dir} has no file of faasm's, and none came with this cni-faasm, "
            f"{kind}",
            "put one there, or say which by --conf FILE; the README has one to copy, "
            "docs/configuration.md every key",
        ) from None
    except CniError:
        network = None
    if network is None:
        raise ToolError(f"{path} is damaged", "install cni-faasm again")
    return network


def delivered_path() -> str:
    """Return where the configuration is that came with this tool; a Python package has none."""
    bundled = getattr(sys, "_MEIPASS", None)
    here = os.path.dirname(os.path.abspath(__file__))
    top = bundled or os.path.dirname(os.path.dirname(here))
    return os.path.join(top, "conf", DELIVERED)


def state_dirs(networks: Sequence[Network], given: str) -> list[str]:
    """Return the folders where attachment records may be, without doubles."""
    if given:
        return [given.rstrip("/") or "/"]
    found = [configuration.load_tolerant(network.document).state_dir for network in networks]
    return list(dict.fromkeys((*found, configuration.DEFAULT_STATE_DIR)))


def data_dir_of(networks: Sequence[Network], name: str) -> str:
    """Return where a network's leases are."""
    for network in networks:
        if network.name == name:
            return configuration.load_tolerant(network.document).data_dir
    return configuration.DEFAULT_DATA_DIR


def request(
    verb: str,
    document: dict[str, object],
    container_id: str = "",
    ifname: str = "",
    netns: str = "",
) -> protocol.Request:
    """Return a call of one verb, as a runtime would make it."""
    return protocol.Request(
        verb=verb,
        container_id=container_id,
        netns=netns,
        ifname=ifname,
        path="/opt/cni/bin",
        document=document,
    )
