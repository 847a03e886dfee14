"""What is recorded of decisions and learned from reports.

journal.py   decisions and reports on disk, written beside the event loop
online.py    what reports teach at once: quality around a prompt, latency and cost of every model
heads.py     how that depends on the prompt     drift.py    whether a model has become another
tutor.py     keeps what is learned up to date   replay.py   recorded decisions, decided again
"""
