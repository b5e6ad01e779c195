"""Remember what this machine renders, as the CPU it is and as one that has AVX2 only.  Run:  make golden"""

import json
import shutil
import tempfile
from pathlib import Path

from tests.golden.records import AVX2, FOLDER, RECORD, WHOLE, render, with_kind


def main() -> None:
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"numerics": None, "kinds": {}}
    with tempfile.TemporaryDirectory() as folder:
        whole, held_back = (render(Path(folder, name), env) for name, env in (("a", WHOLE), ("b", AVX2)))
        for found in (whole, held_back):
            record = with_kind(record, found)
            print(f"remembered: {found.kind}")
        for picture in whole.folder.glob("*.png"):
            shutil.copy(picture, FOLDER)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
