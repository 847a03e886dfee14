"""What is recorded of decisions and learned from reports.

journal.py   decisions and reports on disk, written beside the event loop
online.py    what reports teach at once: quality around a prompt, latency and cost of every model
replay.py    recorded decisions against another generation or other settings
refit.py     a period's reports folded into a new generation
"""
