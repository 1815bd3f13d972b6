"""A second implementation of Strongroom's message format, written from FORMAT.md alone.

Plain Python over the `cryptography` package. It shares no code with `strongroom` and never imports
it: where both agree, the page that both were written from is complete. Slow, and not for secrets.
"""
