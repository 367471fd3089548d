"""Makes the fault that planted.cpp has for a sanitizer, or the same call without the fault.

CAMRT_WATCHED=FOLDER python scripts/sanitizers/planted.py thread|address|undefined faulty|sound
"""

from __future__ import annotations

import sys

from sanitized_extension import load_extension

ARGUMENTS = {
    "thread": {"faulty": (10_000, True), "sound": (10_000, False)},
    "address": {"faulty": (7, 7), "sound": (7, 6)},
    "undefined": {"faulty": (2**31 - 1, 1), "sound": (2**31 - 2, 1)},
}

if __name__ == "__main__":
    kind, way = sys.argv[1:]
    found = getattr(load_extension("_planted", "_planted"), kind)(*ARGUMENTS[kind][way])
    print(f"{kind}, {way}: {found}")
