"""What the containers run is a command line that `latentbank` accepts."""

from __future__ import annotations

from tests.deploy.places import DEPLOY, documents, manifests
from tests.docs.pages import accept


def test_what_containers_run_is_accepted() -> None:
    found = []
    for name in ("compose.yaml", "compose.cluster.yaml"):
        for service in documents(DEPLOY / name)[0]["services"].values():
            if "latentbank" in service.get("image", ""):
                found.append(service["command"])
    for manifest in manifests():
        spec = manifest["spec"].get("template", {}).get("spec", {})
        found += [container["args"] for container in spec.get("containers", []) if "command" not in container]
    assert len(found) == 4
    for words in found:
        accept([word.replace("$(JOB_COMPLETION_INDEX)", "7") for word in words])
