"""Print the requirements of pyproject.toml, one per line: python requirements.py pyproject.toml [EXTRA ...].

An image installs them in a separate layer, which is rebuilt only when a requirement changes, not with every change of
the source.
"""

import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print(
    "\n".join(
        project["dependencies"] + [requirement for extra in sys.argv[2:] for requirement in extras[extra]]
    )
)
