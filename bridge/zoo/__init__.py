"""`bridge zoo`: real models, compiled, compared with eager PyTorch, and timed beside what else compiles them.

Its models are the scripts in models/ that have a table ZOO, which is read and not run (entries.py). Each is measured in
a process of its own (run.py, child.py, measure.py); table.py shows what came of it.
"""
