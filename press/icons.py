"""Cuts the theme's icon fonts down to the icons that the site shows: 300 kB become a few.

The theme ships all two thousand of Font Awesome's. Which are shown is read off the built site:
classes in pages and scripts, and characters that style sheets name outside Font Awesome's own list.
"""

import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

THEME = "_static/styles/pydata-sphinx-theme.css"
FONTS = "_static/vendor/fontawesome/webfonts"
LISTED = re.compile(r'((?:\.fa-[\w-]+:+before,?)+)\{content:"\\([0-9a-f]+)"\}')
CHARACTER = re.compile(r'"(?:\\([0-9a-f]{4})|([\ue000-\uf8ff]))"')


def characters(site: Path) -> set[int]:
    """The icon characters that a page, a script or a style sheet of the site can show."""
    theme = (site / THEME).read_text(encoding="utf-8")
    listed = {name: int(code, 16) for names, code in LISTED.findall(theme) for name in re.findall(r"fa-[\w-]+", names)}
    texts = [path.read_text(encoding="utf-8") for path in [*site.rglob("*.html"), *site.glob("_static/scripts/*.js")]]
    named = {name for text in texts for name in re.findall(r"\bfa-[\w-]+", text)}
    styles = [LISTED.sub("", theme)]
    styles += [
        path.read_text(encoding="utf-8") for path in site.glob("_static/**/*.css") if path.name != Path(THEME).name
    ]
    direct = {int(code, 16) if code else ord(sign) for style in styles for code, sign in CHARACTER.findall(style)}
    return {listed[name] for name in named if name in listed} | direct


def cut(site: Path) -> None:
    """Rewrite the site's icon fonts with the characters it needs, and drop their older format."""
    keep = characters(site)
    for path in (site / FONTS).glob("*.woff2"):
        font = TTFont(path)
        subsetter = Subsetter(Options(flavor="woff2", layout_features=[]))
        subsetter.populate(unicodes=keep)
        subsetter.subset(font)
        font.flavor = "woff2"
        font.save(path)
        path.with_suffix(".ttf").unlink(missing_ok=True)
