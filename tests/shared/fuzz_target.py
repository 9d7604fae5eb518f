"""Coverage-guided fuzzing, as a program: `python -m tests.shared.fuzz_target frames|announcements FOLDER FLAGS…`.

FOLDER takes the corpus; it starts with good examples. The flags are libFuzzer's, such as `-max_total_time=60`. Whatever
is not a documented error ends the program with a status other than 0, and leaves the input in the working folder.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shared", "msgspec"]):  # pyright: ignore[reportAttributeAccessIssue]
    from shared.announcement import RECORD_LIMIT, check_signature, seal, unseal
    from shared.errors import ProtocolError
    from shared.identity import SIGNATURE_BYTES, Identity
    from tests.shared.announcements import announcement
    from tests.shared.frames import FRAMES, Reader, readable

ANN = Identity.from_seed(b"a" * 32)
LABEL = b"corolla-announcement-v1:"
PIECE = 37


def read_frames(data: bytes) -> None:
    """However it is cut, a link tells what can be read, and refuses the rest once."""
    reader = Reader()
    for start in range(0, len(data), PIECE):
        reader.feed(data[start : start + PIECE])
    assert [message for message, _ in reader.told] == readable(data)
    reader.check()


def read_announcement(data: bytes) -> None:
    """As it is, and signed well: what is accepted says the same when it is sealed again."""
    for record in (data, ANN.sign(LABEL, data) + data):
        try:
            said = unseal(record, time.time())
        except ProtocolError:
            continue
        check_signature(record)
        assert len(record) <= RECORD_LIMIT
        assert unseal(seal(said, ANN), time.time()) == said


def announcements() -> list[bytes]:
    """Signed records, and what they sign."""
    sealed = [seal(announcement(ANN, name=name), ANN) for name in ("brave otter", "")]
    return [*sealed, *(record[SIGNATURE_BYTES:] for record in sealed)]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "frames": (read_frames, lambda: [*FRAMES, b"".join(FRAMES)]),
    "announcements": (read_announcement, announcements),
}


def main(target: str, folder: str, *flags: str) -> None:
    logging.disable()
    run, examples = TARGETS[target]
    for number, example in enumerate(examples()):
        Path(folder, f"example-{number}").write_bytes(example)
    atheris.Setup([sys.argv[0], folder, *flags], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
