"""The engine behind `strongroom bench` and benches/: measures this library beside named peers.

Every job runs in a process of its own (`child.py`), so that one engine, one peer's imports or one
heap never stand in another's way; within a job the contenders take turns, and ratios are ratios of
medians of the same turns. What is imported where:

- `runner.py` says which jobs there are, starts them, and gathers the document;
- `further.py` names the modules by which other parts of the library add jobs and rows;
- `works.py`, `files.py`, `process.py` are the jobs, `peers.py` the peers, `measure.py` the clock;
- `targets.py` turns a document into rows of ratio, target and verdict, `tables.py` and `plot.py`
  into what a person reads.

Modules of this package import each other relatively and the library only by its public names:
`make bench-compare` runs this same harness against another revision of the library.
"""
