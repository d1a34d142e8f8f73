"""The inference engine: one base model, many adapters, one KV cache."""

import os

# libgomp's threads spin for milliseconds at the end of every parallel region before they sleep. That costs nothing
# on an idle machine and several times the run time on a busy one, since the thread they wait for has no core. 20,000
# turns (tens of microseconds) keep the idle speed. Read when torch loads libgomp, so it is set before torch is.
SPIN_TURNS = "20000"
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)
