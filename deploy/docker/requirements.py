"""Print what pyproject.toml requires, a requirement a line: python requirements.py pyproject.toml [EXTRA ...].

An image installs that in a layer of its own, which is built anew only when a requirement changes, not with every change
of the source.
"""

import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print("\n".join(project["dependencies"] + [one for extra in sys.argv[2:] for one in extras[extra]]))
