"""Measuring routing on labelled prompts that the router does not know, against baselines.

    evaluate.py  one evaluation: an index, a running service, or cross-validation
    data.py      labelled prompts as arrays, and their division into folds
    local.py     asks a generation in this process      remote.py   asks a running service
    policies.py  the router and its baselines           metrics.py  the figures, as their papers define them
    figures.py   every policy measured, with intervals  report.py, html.py, plots.py  what is shown
    page.py      how every page looks                   output.py    tables, and the files of a report
    caching/     the same for the cache

Called by `waypost evaluate`. Decides nothing and changes nothing.
"""

from service.evaluation.evaluate import Evaluation, run
from service.evaluation.output import make_folder
from service.evaluation.remote import Service
from service.evaluation.report import Report, to_text, write

__all__ = ["Evaluation", "Report", "Service", "make_folder", "run", "to_text", "write"]
