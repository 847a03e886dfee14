"""`waypost label`: references where there are none, from what models answer and how that is scored.

    endpoints.py  which models are asked, where and at what price; one call, with its retries
    scores.py     how an answer is scored: against an expected one, or by a judge model
    results.py    the append-only file of what was answered and scored, from which work goes on
    label.py      the work: who is asked what, within a budget

The only part of Waypost that calls models, and only from this command.
"""
