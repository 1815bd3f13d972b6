"""The frame and the style of a report's page."""

from __future__ import annotations

from html import escape
from typing import Final

__all__ = ["STATES", "page", "tile"]

# The states of NIST SP 800-57, and the ends of their classes in the style.
STATES: Final = {
    "pre-active": "pre",
    "active": "act",
    "suspended": "sus",
    "deactivated": "dea",
    "compromised": "com",
    "destroyed": "des",
}

# Colours are told apart without hue too: suspended and compromised are hatched. Text on each
# ground has a contrast of 4.5 to 1 or more.
_STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#566072;--line:#dfe3ea;
--good:#0b6b3a;--goodbg:#e5f5ec;--bad:#a11a1a;--badbg:#fdeaea;--warn:#8a4b00;--warnbg:#fff1dc;
--pre:#9db4d8;--act:#2f6fd0;--sus:#d99a1b;--dea:#8b95a5;--com:#c93434;--des:#2b313b;
--encrypt:#2f6fd0;--decrypt:#39a387;--rewrap:#8d6ccf;--verify:#8b95a5;--failed:#c93434}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1a2029;--ink:#e6eaf1;--soft:#9aa6b8;
--line:#2c3543;--good:#6fdca0;--goodbg:#12301f;--bad:#ff9a94;--badbg:#3a1717;--warn:#ffc879;
--warnbg:#3a2a10;--pre:#5a74a0;--act:#5b95f0;--sus:#e0ab45;--dea:#6c7688;--com:#ef6a62;--des:#dfe4ec;
--encrypt:#5b95f0;--decrypt:#4fc0a2;--rewrap:#a98bec;--verify:#6c7688;--failed:#ef6a62}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:0 0 .25rem}
.sub,.axis{color:var(--soft);margin:.1rem 0 .8rem}.sub:empty{display:none}
code{font:.92em ui-monospace,monospace;overflow-wrap:anywhere}
td code,td:nth-child(2){white-space:nowrap}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.1rem;
margin:1rem 0}
.verdict.good{background:var(--goodbg);border-color:var(--good)}.verdict.good h2{color:var(--good)}
.verdict.bad{background:var(--badbg);border-color:var(--bad)}.verdict.bad h2{color:var(--bad)}
.verdict p{margin:.2rem 0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem 1rem;
margin:0}
.tile dt{color:var(--soft)}.tile dd{margin:0;font-size:1.6rem;font-weight:600;line-height:1.25}
.tile dd small{font-size:.9rem;font-weight:400;color:var(--soft);display:block}
.tile.bad dd{color:var(--bad)}
.scroll{overflow-x:auto}.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--act)}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th{text-align:left;color:var(--soft);font-weight:600}
th,td{padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.n{font-variant-numeric:tabular-nums;white-space:nowrap}.t{white-space:nowrap}
.long{min-width:18rem;overflow-wrap:anywhere}
.wide td:nth-child(3){width:60%;min-width:14rem}
.lane{position:relative;height:1.1rem;background:var(--bg);border-radius:4px;margin-top:.2rem;
overflow:hidden}
.lane i{position:absolute;top:0;bottom:0}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0;margin:0 0 .6rem;
color:var(--soft);font-size:.9rem}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin-right:.35rem;
vertical-align:-1px}
.s-pre{background:var(--pre)}.s-act{background:var(--act)}.s-dea{background:var(--dea)}
.s-sus{background:repeating-linear-gradient(45deg,var(--sus) 0 4px,var(--card) 4px 6px)}
.s-com{background:repeating-linear-gradient(-45deg,var(--com) 0 5px,var(--card) 5px 7px)}
.s-des{background:var(--des)}
.chart{display:flex;align-items:flex-end;gap:2px;height:9rem;list-style:none;padding:0;margin:0;
border-bottom:1px solid var(--line)}
.chart li{flex:1 1 0;min-width:3px;max-width:3rem;height:100%;display:flex;flex-direction:column;
justify-content:flex-end}
.chart i{display:block;min-height:1px}
.o-encrypt{background:var(--encrypt)}.o-decrypt{background:var(--decrypt)}
.o-rewrap{background:var(--rewrap)}.o-verify{background:var(--verify)}
.o-failed{background:repeating-linear-gradient(45deg,var(--failed) 0 4px,var(--card) 4px 5px)}
.ends{display:flex;justify-content:space-between;color:var(--soft);margin:.2rem 0 .6rem;
font-size:.9rem}
.badge{border:1px solid currentColor;border-radius:99px;padding:0 .5rem;font-size:.82rem;
color:var(--soft);white-space:nowrap}.badge.warn{color:var(--warn);background:var(--warnbg)}
summary{cursor:pointer;color:var(--soft)}
/* On a phone a timeline stands under its key: beside it, it would be scrolled out of sight. */
@media(max-width:40rem){td:nth-child(2):not(.t,.n){white-space:normal;overflow-wrap:anywhere}
.wide thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.wide,.wide tbody{display:block}
.wide tr{display:grid;grid-template-columns:auto 1fr auto;gap:.15rem .7rem;padding:.5rem 0;
border-bottom:1px solid var(--line)}.wide tr:last-child{border-bottom:0}
.wide td,.wide tr:last-child td{border:0;padding:0}
.wide td:nth-child(3){grid-row:2;grid-column:1/-1;width:auto;min-width:0}
.wide td:nth-child(4){grid-row:1;grid-column:3;color:var(--soft)}
td:not(:last-child){padding-right:.5rem}table{font-size:.84rem}.tile dd{font-size:1.35rem}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """Return a whole page: nothing in it is loaded from anywhere, and nothing runs."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        # Even a text that were taken for markup could load and run nothing.
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><main>{body}</main></html>\n"
    )


def tile(name: str, value: str, more: str = "", *, bad: bool = False) -> str:
    """Return one figure with its name."""
    small = f"<small>{escape(more)}</small>" if more else ""
    return (
        f'<dl class="tile{" bad" if bad else ""}"><dt>{escape(name)}</dt>'
        f"<dd>{escape(value)}{small}</dd></dl>"
    )
