import os
import subprocess
import sys
from pathlib import Path


def test_no_native_code_comes_from_a_hub(tmp_path: Path) -> None:
    """With a package `kernels` installed, bitsandbytes would fetch some when it is imported."""
    (tmp_path / "kernels.py").write_text("print('imported')")
    code = "from peer.model.bitsandbytes_library import bitsandbytes as b; print(b().nn.Linear4bit.__name__)"
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["Linear4bit"]
