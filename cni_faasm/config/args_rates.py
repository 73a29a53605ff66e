"""Take limits from CNI_ARGS, for runtimes that know no capabilities, where the network allows it.

What a container's owner may put into CNI_ARGS is for the runtime to say, so the network's file has to
allow it (ratesByArgs). Loaded only when there are such.
"""

from cni_faasm.config import units
from cni_faasm.spec.errors import INVALID_ENVIRONMENT, CniError
from cni_faasm.spec.protocol import RATE_ARGS

OPTION = "ratesByArgs"


def merge(
    document: dict[str, object], args: dict[str, str], warnings: list[str]
) -> dict[str, object]:
    """Return a configuration in which the runtime asks for the limits that CNI_ARGS have.

    Those of runtimeConfig come first, direction by direction. As the record keeps the
    configuration, they hold for whatever reads that later.
    Raises: CniError 4.
    """
    asked = {RATE_ARGS[key]: value for key, value in args.items() if key in RATE_ARGS and value}
    if not asked:
        return document
    names = [key for key in args if key in RATE_ARGS]
    if _value(document, OPTION) is not True:
        warnings.append(f"CNI_ARGS: {', '.join(names)} passed over: {OPTION} is not true")
        return document
    for name, value in asked.items():
        _check(name, value)
    runtime = _object(document, "runtimeConfig")
    bandwidth = _object(runtime, "bandwidth")
    for direction in ("ingress", "egress"):
        rate, burst = f"{direction}Rate", f"{direction}Burst"
        if rate not in asked and burst in asked:
            raise _refusal(burst, asked[burst], f"{_arg(rate)} beside it: without a rate, no limit")
        if rate in asked and not _value(bandwidth, rate):
            kept = {
                key: value
                for key, value in bandwidth.items()
                if key.lower() not in (rate.lower(), burst.lower())
            }
            bandwidth = kept | {key: asked[key] for key in (rate, burst) if key in asked}
    return _replaced(document, "runtimeConfig", _replaced(runtime, "bandwidth", bandwidth))


def _check(name: str, value: str) -> None:
    is_rate = name.endswith("Rate")
    try:
        (units.parse_rate if is_rate else units.parse_burst)(value)
    except (ValueError, OverflowError):
        allowed = units.ALLOWED_RATE if is_rate else units.ALLOWED_BURST
        raise _refusal(name, value, allowed) from None


def _refusal(name: str, value: str, allowed: str) -> CniError:
    return CniError(
        INVALID_ENVIRONMENT,
        f"CNI_ARGS: {_arg(name)}={value[:60]!r}: allowed is {allowed}",
        "the runtime's configuration of this container says it",
    )


def _arg(name: str) -> str:
    return next(key for key, each in RATE_ARGS.items() if each == name)


def _value(document: dict[str, object], key: str) -> object:
    return next((value for name, value in document.items() if name.lower() == key.lower()), None)


def _object(document: dict[str, object], key: str) -> dict[str, object]:
    found = _value(document, key)
    return found if isinstance(found, dict) else {}


def _replaced(document: dict[str, object], key: str, value: object) -> dict[str, object]:
    """Return an object with another value at a key, which may be spelt otherwise there."""
    kept = {name: one for name, one in document.items() if name.lower() != key.lower()}
    return {**kept, key: value}
