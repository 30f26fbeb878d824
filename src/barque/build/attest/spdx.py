"""A software bill of materials as SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from barque.store.place.messages import Package

PREDICATE = "https://spdx.dev/Document"
_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")
_NAMESPACES = {"deb", "apk", "rpm"}
_ROOT = "SPDXRef-DocumentRoot"


def document(name: str, digest: str, packages: Sequence[Package], created: str, tool: str) -> dict[str, Any]:
    """Of the image ``name`` with the manifest ``digest``; ``created`` in RFC 3339, whole seconds."""
    listed = [_package(package) for package in packages]
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
        "documentNamespace": f"urn:barque:sbom:{digest}",
        "creationInfo": {"created": created, "creators": [f"Tool: {tool}"]},
        "packages": [{
            "SPDXID": _ROOT, "name": name, "versionInfo": digest, "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False, "primaryPackagePurpose": "CONTAINER",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}]}, *listed],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": _ROOT},
            *({"spdxElementId": _ROOT, "relationshipType": "CONTAINS", "relatedSpdxElement": item["SPDXID"]}
              for item in listed)]}


def _package(package: Package) -> dict[str, Any]:
    # The digest keeps the identifiers of packages apart whose names differ in signs that SPDX does not know.
    mark = hashlib.sha256(repr(package).encode()).hexdigest()[:8]
    plain = _IDENTIFIER.sub("-", f"{package.kind}-{package.name}-{package.version}")
    found: dict[str, Any] = {
        "SPDXID": f"SPDXRef-Package-{plain}-{mark}", "name": package.name, "versionInfo": package.version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                          "referenceLocator": locator(package)}]}
    if package.license:
        found["licenseComments"] = f"declared by the package: {package.license}"
    if package.source:
        found["sourceInfo"] = f"built from {package.source}"
    return found


def locator(package: Package) -> str:
    """The package URL (github.com/package-url/purl-spec)."""
    namespace = f"{quote(package.origin, safe='')}/" if package.kind in _NAMESPACES and package.origin else ""
    name = quote(package.name, safe="/")
    version = f"@{quote(package.version, safe='')}" if package.version else ""
    arch = f"?arch={quote(package.architecture, safe='')}" if package.architecture else ""
    return f"pkg:{package.kind}/{namespace}{name}{version}{arch}"
