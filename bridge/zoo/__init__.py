"""`bridge zoo`: real models, compiled, compared with eager PyTorch, and timed beside other backends.

Its models are the scripts in models/ with a table ZOO, which is parsed, not executed (entries.py). Each is measured in
a process of its own (run.py, child.py, measure.py). table.py formats the results.
"""
