"""Tell what is in the bundle besides our own code: Python packages, and files of Debian's.

    contents.py LIST FOLDER EPOCH     LIST names a file per line that something was taken from

FOLDER gets `sbom.cdx.json`, a bill of materials as CycloneDX defines it, and `licenses`, the
texts of all licenses. A file is Debian's when dpkg says so, a package's when it is in our
environment; one that is neither ends the build.
"""

import glob
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
NAME = "cni-faasm"
LICENSE = "Apache-2.0"
SITE = os.path.realpath(sysconfig.get_path("purelib"))
# What is compiled in: PyInstaller's bootloader, simplejson's C half, Debian's static libraries.
COMPILED = {"pyinstaller", "simplejson"}
STATIC = (
    "/usr/lib/gcc/*/12/libgcc.a",
    "/usr/lib/*/libc.a",
    "/usr/lib/python3.*/config-3.*/libpython3.*.a",
    "/usr/lib/*/libexpat.a",
    "/usr/lib/*/libz.a",
)


class Part(NamedTuple):
    """One package that something is from. license: an SPDX expression, "" where none is told."""

    purl: PackageURL
    license: str
    texts: tuple[str, ...]


def main() -> None:
    listed, folder, epoch = sys.argv[1:]
    with open(listed, encoding="utf-8") as file:
        paths = set(file.read().splitlines())
    for pattern in STATIC:
        paths.update(glob.glob(pattern))
    parts = list(_parts(sorted(paths)))
    with open(os.path.join(folder, "sbom.cdx.json"), "w", encoding="utf-8") as file:
        file.write(bill(parts, int(epoch)))
    _write_licenses(parts, os.path.join(folder, "licenses"))


def _parts(paths: Iterable[str]) -> Iterator[Part]:
    """Yield what the files are from, each package once. Raises: SystemExit for a stray one."""
    packages = set(COMPILED)
    of_system: list[str] = []
    owners = importlib.metadata.packages_distributions()
    for path in map(os.path.realpath, paths):
        if path.startswith(os.path.join(SITE, "")):
            top = os.path.relpath(path, SITE).partition("/")[0].removesuffix(".py")
            of_itself = [top.partition("-")[0]] if top.endswith(".dist-info") else [top]
            packages.update(owners.get(top, of_itself)[:1])
        elif not path.startswith(os.path.join(ROOT, "")):
            of_system.append(path)
    for name in sorted(packages, key=str.lower):
        yield _python_package(name)
    for name in _debian_owners(of_system):
        yield _debian_package(name)


def _python_package(name: str) -> Part:
    found = importlib.metadata.distribution(name)
    told = found.metadata
    given = [told[key] for key in ("License-Expression", "License") if key in told]
    license_ = given[0].partition("\n")[0] if given else ""
    texts = [
        str(found.locate_file(file))
        for file in found.files or ()
        if re.search(r"(^|/)(LICEN[CS]E|COPYING|NOTICE)[^/]*$", str(file), re.IGNORECASE)
    ]
    normal = re.sub(r"[-_.]+", "-", told["Name"]).lower()
    return Part(PackageURL("pypi", name=normal, version=found.version), license_, tuple(texts))


def _debian_owners(paths: list[str]) -> list[str]:
    """Return the packages that brought the files, as dpkg names them."""
    # dpkg knows a file by the name it was packed under, /lib or /usr/lib.
    both = {path: (path, path.removeprefix("/usr"), f"/usr{path}") for path in paths}
    command = ["dpkg", "--search", *sorted({name for names in both.values() for name in names})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    owners: dict[str, str] = {}
    for line in done.stdout.splitlines():
        packages, _, path = line.partition(": ")
        if not packages.startswith("diversion "):
            owners[path] = packages.partition(", ")[0]
    found = {path: next(filter(None, map(owners.get, names)), "") for path, names in both.items()}
    strays = [path for path, owner in found.items() if not owner]
    if strays:
        raise SystemExit(f"in the bundle, and nobody knows from where: {', '.join(strays)}")
    return sorted(set(found.values()))


def _debian_package(name: str) -> Part:
    form = "${Package}\n${Version}\n${Architecture}\n${source:Package}\n"
    command = ["dpkg-query", "--show", f"--showformat={form}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    package, version, architecture, source = done.stdout.splitlines()[:4]
    release = f"debian-{_release()}"
    qualifiers = {"arch": architecture, "distro": release, "upstream": source}
    purl = PackageURL("deb", "debian", package, version, qualifiers)
    return Part(purl, "", (f"/usr/share/doc/{package}/copyright",))


def _release() -> str:
    with open("/etc/os-release", encoding="utf-8") as file:
        [found] = re.findall(r'^VERSION_ID="?([^"\n]*)', file.read(), re.MULTILINE)
    return str(found)


def bill(parts: list[Part], epoch: int) -> str:
    """Return the bill of materials; the same parts give the same bytes."""
    licenses = LicenseFactory()
    with open(os.path.join(ROOT, "cni_faasm/__init__.py"), encoding="utf-8") as file:
        [version] = re.findall(r'^__version__ = "(.*)"$', file.read(), re.MULTILINE)
    whole = Component(
        name=NAME,
        version=version,
        type=ComponentType.APPLICATION,
        purl=PackageURL("generic", name=NAME, version=version),
        bom_ref=NAME,
        licenses=[licenses.make_from_string(LICENSE)],
    )
    components = [
        Component(
            name=part.purl.name,
            version=part.purl.version,
            type=ComponentType.LIBRARY,
            purl=part.purl,
            bom_ref=part.purl.to_string(),
            licenses=[licenses.make_from_string(part.license)] if part.license else [],
        )
        for part in parts
    ]
    text = "\n".join([version, *(component.bom_ref.value or "" for component in components)])
    made = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, text),
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(epoch, UTC)),
        components=components,
    )
    made.register_dependency(whole, components)
    return JsonV1Dot6(made).output_as_string(indent=2) + "\n"


def _write_licenses(parts: list[Part], folder: str) -> None:
    os.mkdir(folder)
    for part in parts:
        texts = [path for path in part.texts if os.path.isfile(path)]
        if not texts:
            raise SystemExit(f"{part.purl}: no text of its license")
        with open(os.path.join(folder, f"{part.purl.name}.txt"), "wb") as file:
            for path in sorted(texts):
                file.write(f"{part.purl}: {os.path.basename(path)}\n\n".encode())
                with open(path, "rb") as text:
                    shutil.copyfileobj(text, file)
                file.write(b"\n")


if __name__ == "__main__":
    main()
