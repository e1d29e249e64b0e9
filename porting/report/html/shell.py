"""A page around its content: one file, style and script inside, that asks the network for nothing."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from porting.report.html.markup import Html, join, tag, trusted


@cache
def _asset(name: str) -> Html:
    return trusted(files("porting.report.html").joinpath(name).read_text(encoding="utf-8"))


def document(title: str, *body: Any) -> str:
    """A whole HTML document. The policy in it forbids every request, so that no name could make one."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
            " img-src data:; base-uri 'none'; form-action 'none'",
        ),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="generator", content="porting"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", _asset("style.css")),
    )
    content = tag("body", join(body), tag("script", _asset("script.js")))
    return f"<!doctype html>\n{tag('html', head, content, lang='en')}\n"
