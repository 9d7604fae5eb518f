"""The page that says what each file is."""

from tests.tree import FOLDERS, PAGE, ROOT, page


def test_the_page_is_as_the_modules_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make format"


def test_no_folder_of_modules_is_missing() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("gateway", "peer", "shared")
        for path in (ROOT / top).rglob("*.py")
        if path.stat().st_size and "migrations" not in path.parts
    }
    assert packages <= FOLDERS.keys()
