"""`python -m tests.fuzz.requests --count 100000`: the tests' helper modules go by their plain names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz.requests.command import main

sys.exit(main())
