"""The tables of studies say what the committed numbers say."""

import pytest

from tests.scripts import load_script

tables = load_script("runs/tables.py")


def test_the_tables_are_made_of_the_numbers_that_are_committed():
    assert tables.main(["--check"]) == 0, "python runs/tables.py writes the tables anew"


@pytest.mark.parametrize("table", tables.TABLES)
def test_every_page_has_the_table(table):
    make, pages = tables.TABLES[table]
    for page in pages:
        assert f"{tables.BEGIN.format(table)}{make()}{tables.END}" in page.read_text(encoding="utf-8"), page


def test_a_page_that_says_something_else_is_noticed_and_mended(tmp_path, monkeypatch):
    page, begin = tmp_path / "page.md", tables.BEGIN.format("rivals")
    page.write_text(f"before\n{begin}| old |\n{tables.END}\nafter\n")
    monkeypatch.setattr(tables, "TABLES", {"rivals": (tables.rivals, [page])})
    assert tables.main(["--check"]) == 1 and "old" in page.read_text()
    assert tables.main([]) == 0 and tables.main(["--check"]) == 0
    assert page.read_text() == f"before\n{begin}{tables.rivals()}{tables.END}\nafter\n"


@pytest.mark.parametrize(("bounds", "text"), [(("-0.3", "0.1"), "−0.100 (−0.300 to +0.100)"), (("", ""), "−0.100")])
def test_a_difference_has_an_interval_where_there_are_seeds(bounds, text):
    assert tables._difference(dict(zip(("t_low", "t_high"), bounds, strict=True)) | {"difference": "-0.1"}) == text
