"""Recognise a configuration that ADD has accepted, so that CHECK need not validate it anew.

ADD leaves the configuration's text in the attachment's record. A runtime sends CHECK the same
one and prevResult; when it does, loading the modules that validate it and doing so would be
half a millisecond of nine, to learn what is known.
"""

from cni_faasm.attachment import plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config.defaults import DEFAULT_STATE_DIR
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError
from cni_faasm.spec.protocol import Request, is_name
from cni_faasm.spec.results import Result, parse_result

KEY = "config"  # of the record
REMARKS = "remarks"  # of the record, too
NAME = "name"  # of the record: what the runtime calls the container
_MAX_REMARKS = 16
_MAX_REMARK = 500  # characters
_MAX_NAME = 253  # characters: a pod's name is a DNS subdomain
_PATH_LIMIT = 1024  # characters; whether a longer one is a path is for config.py to say
_LIMIT = 1 << 16  # characters; a longer one is validated each time


def fields(config: NetworkConfig) -> dict[str, object]:
    """Return what the record keeps of a configuration beside the plan.

    Its remarks, too, such as a limit that was lowered: runtimes show nobody the stderr of an
    ADD that went well, so `status` and `check` tell them.
    """
    kept: dict[str, object] = {KEY: config.accepted}
    if config.called:
        kept[NAME] = config.called
    if config.warnings:
        kept[REMARKS] = [text[:_MAX_REMARK] for text in config.warnings[:_MAX_REMARKS]]
    return kept


def text_of(document: dict[str, object]) -> str:
    """Return what the record keeps of a configuration; "" when it is too long for that."""
    own = {key: value for key, value in document.items() if key != "prevResult"}
    text = jsonio.dumps(own).decode()
    return text if len(text) <= _LIMIT else ""


def name_in(args: dict[str, str]) -> str:
    """Return the runtime's name of a container by its CNI_ARGS: "c1", "namespace/pod", "" for none.

    podman gives its container's as K8S_POD_NAME, Kubernetes' runtimes the pod's with
    K8S_POD_NAMESPACE. Nothing else than names: it goes to a terminal, and is compared with what
    people type.
    """
    parts = [args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", "")]
    if not parts[1] or not all(is_name(text) and len(text) <= _MAX_NAME for text in parts if text):
        return ""
    return "/".join(text for text in parts if text)


def recall(request: Request) -> tuple[Plan, Result | None] | None:
    """Return what ADD promised and the chain's result, when ADD was given this configuration.

    None when it was not, or when that cannot be told: it must be validated then.
    Raises: CniError 5.
    """
    document = request.document
    name = document.get("name")
    state_dir = document.get("stateDir", DEFAULT_STATE_DIR)
    if not isinstance(name, str) or not is_name(name) or not _is_plain_path(state_dir):
        return None
    fields = record.read(str(state_dir), name, request.container_id, request.ifname)
    if fields is None or not fields.get(KEY) or fields[KEY] != text_of(document):
        return None
    promised = plan_fields.from_fields(fields)
    if promised is None:
        return None
    if "prevResult" not in document:
        return promised, None
    prev_result = document["prevResult"]
    if not isinstance(prev_result, dict):
        return None
    try:
        return promised, parse_result(prev_result)
    except CniError:
        return None


def _is_plain_path(path: object) -> bool:
    """Say whether config.py would take the path as it stands."""
    return (
        isinstance(path, str)
        and path.startswith("/")
        and len(path) <= _PATH_LIMIT
        and not any(part in ("", ".", "..") for part in path.split("/")[1:])
    )
