"""The table of the rivals says what the committed numbers say."""

from tests.scripts import load_script

rivals = load_script("runs/rivals.py")


def test_the_tables_are_made_of_the_numbers_that_are_committed():
    assert rivals.main(["--check"]) == 0, "python runs/rivals.py writes the tables anew"


def test_every_page_has_the_table():
    for page in rivals.PAGES:
        assert f"{rivals.BEGIN}{rivals.table()}{rivals.END}" in page.read_text(encoding="utf-8"), page


def test_a_page_that_says_something_else_is_noticed_and_mended(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{rivals.BEGIN}| old |\n{rivals.END}\nafter\n")
    monkeypatch.setattr(rivals, "PAGES", [page])
    assert rivals.main(["--check"]) == 1 and "old" in page.read_text()
    assert rivals.main([]) == 0 and rivals.main(["--check"]) == 0
    assert page.read_text() == f"before\n{rivals.BEGIN}{rivals.table()}{rivals.END}\nafter\n"
