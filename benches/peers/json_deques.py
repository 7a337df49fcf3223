#!/usr/bin/env python3
"""What one writes in an afternoon: json and a deque for each cgroup. json_deques.py EVENTS.jsonl START LINE..."""
import json
import sys
from collections import deque

start, limits = int(sys.argv[2]), [float(x) for x in sys.argv[3:]]
windows = {}
with open(sys.argv[1], encoding="ascii") as f:
    for line in f:
        event = json.loads(line)
        if "t" not in event:
            continue
        t, subject = event["t"] - start, event["subject"]
        window = windows.get(subject)
        if window is None:
            window = windows[subject] = deque(maxlen=61)
        window.append(event["work"])
        if len(window) == 61:
            rate = (window[60] - window[0]) / 60
            for i, limit in enumerate(limits):
                if rate > limit and t % 60 == 0:
                    print(i, subject.removeprefix("cgroup:"), t)
