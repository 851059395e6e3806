"""Links of the built pages: those that lead nowhere are found, and what a page loads from elsewhere."""

import pytest

GOOD = '<html><body id="a"><h1 id="b c">x</h1><a href="#a">self</a><a href="https://example.org">out</a></body></html>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "picture.png").write_bytes(b"")

    def put(body):
        (tmp_path / "sub" / "page.html").write_text(f"<html><body>{body}</body></html>")
        from link_check import broken_links

        return broken_links(tmp_path)

    return put


@pytest.mark.parametrize(
    "body",
    [
        '<a href="../index.html">file</a>',
        '<a href="../index.html#b%20c">anchor</a>',
        '<a href="..">folder</a>',
        '<img src="../picture.png?v=1">',
        '<a href="https://example.org/x#y">out</a><a href="mailto:a@example.org">mail</a>',
        '<img src="data:image/png;base64,AAAA">',
        '<a name="old"></a><a href="#old">named</a>',
    ],
)
def test_links_that_lead_somewhere(site, body):
    assert site(body) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="../gone.html">file</a>', "gone.html leads to a file that is not there"),
        ('<img src="gone.png">', "gone.png leads to a file that is not there"),
        ('<a href="../index.html#z">anchor</a>', "index.html#z leads to an anchor that is not there"),
        ('<a href="#z">anchor</a>', "#z leads to an anchor that is not there"),
        ('<script src="https://example.org/x.js"></script>', "x.js is loaded from elsewhere"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "x.css is loaded from elsewhere"),
    ],
)
def test_links_that_do_not(site, body, problem):
    (sentence,) = site(body)
    assert sentence.startswith("sub/page.html: ") and sentence.endswith(problem)
