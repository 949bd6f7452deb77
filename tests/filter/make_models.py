#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the miniature random models that the tests of the filter run: make_models.py PROGRAM FOLDER.

PROGRAM is flashvsr_random_model. Models that are newer than it are kept.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# wide has a transformer that the projector of mini does not fit.
MODELS = {
    "mini": ["--size", "mini", "--seed", "1", "--version", "1.1"],
    "wide": ["--size", "mini", "--seed", "2", "--version", "1.1", "--dim", "256"],
}
LAST_WRITTEN = "posi_prompt.pth"


def main():
    program, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name, options in MODELS.items():
        made = folder / name
        last = made / LAST_WRITTEN
        if last.exists() and last.stat().st_mtime > program.stat().st_mtime:
            continue
        fresh = folder / f"{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([program, fresh, *options], check=True)
        shutil.rmtree(made, ignore_errors=True)
        os.rename(fresh, made)
        print(f"wrote {made}")


if __name__ == "__main__":
    main()
