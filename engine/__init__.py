"""The inference engine: one base model, many adapters, one KV cache."""

import os

# libgomp's threads spin for milliseconds at the end of every parallel region before they sleep. That costs nothing
# on an idle machine and many times the run time on a busy one, since the thread they wait for has no core. 2,000 turns
# (some 20 us) keep the idle speed. Milliseconds of a decode step of SmolLM2-135M on 2 cores, idle and beside a busy
# process, with 500, 2,000 and 20,000 turns: in C 8.5 and 15, 8.8 and 25, 7.5 and 104; in torch 20 and 25, 14 and 41, 15
# and 136. Read when torch loads libgomp, so it is set before torch is.
SPIN_TURNS = "2000"
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)
