"""Measuring the cache on a log of prompts: what it would have answered, how much of that wrongly, and what it saves.

    evaluate.py  one evaluation, from the log to the report
    log.py       the log                                truth.py    whether an answer is right for another call
    player.py    plays the log through the service      fixed.py    through simpler caches
    figures.py   hits, errors, savings                  report.py, shown.py, page.py, plots.py  what is shown

Called by `waypost evaluate cache`. Decides nothing itself: what is served is the service's own decision.
"""

from service.evaluation.caching.evaluate import BUDGETS, Evaluation, run
from service.evaluation.caching.report import Report
from service.evaluation.caching.shown import to_text, write

__all__ = ["BUDGETS", "Evaluation", "Report", "run", "to_text", "write"]
