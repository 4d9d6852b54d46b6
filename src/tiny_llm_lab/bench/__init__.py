"""Measurements of serving: request traces, engines behind one interface, metrics, reports.

A trace (`traces`) says which requests arrive when. An engine (`engines`) is a solution package or
mlx-lm. `replay` runs a trace through an engine and notes when each token came; it also checks that
engines generate the same tokens, before anything is timed. `metrics` makes numbers of the times,
`report` tables and figures of the numbers. `costs` measures what no trace shows: the scheduler's
own time and the memory of a prefill.
"""
