"""Run a command beside a double, which is to it what `make test-server` calls a real server.

python -m tests.wire python -m pytest -m server
"""

import os
import subprocess
import sys
import tempfile

from tests.wire.disk import quick_folder
from tests.wire.double import QdrantDouble

KEY = "the-admins-key"


def main() -> int:
    """Return the command's exit code; 1 if a request did not conform to Qdrant's API."""
    if (memory := quick_folder()) is not None:
        tempfile.tempdir = str(memory)
    with QdrantDouble(api_key=KEY) as server:
        variables = {
            "TEST_SERVER_URL": server.url,
            "TEST_SERVER_GRPC_PORT": str(server.grpc_port),
            "TEST_SERVER_KEY": KEY,
        }
        code = subprocess.run(sys.argv[1:], env=os.environ | variables).returncode
        for invalid in server.invalid_requests[:10]:
            print(invalid)
        left = [collection for collection in server.collections if collection.startswith("test-")]
        if left:
            print(f"tests left {len(left)} collections behind, such as {left[0]}")
        return code or bool(server.invalid_requests or left)


if __name__ == "__main__":
    sys.exit(main())
