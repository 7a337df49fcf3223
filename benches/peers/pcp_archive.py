#!/usr/bin/env python3
"""Writes a PCP archive: pcp_archive.py TOTALS.json ARCHIVE START. TOTALS has a list of values for each cgroup."""
import ctypes.util
import json
import sys

# The libraries are not installed, so that the linker's cache does not know them; LD_LIBRARY_PATH does.
ctypes.util.find_library = {"pcp": "libpcp.so.3", "pcp_import": "libpcp_import.so.1"}.get

from pcp import pmi
from cpmapi import PM_SEM_COUNTER, PM_TYPE_U64

with open(sys.argv[1], encoding="ascii") as f:
    totals = json.load(f)
log = pmi.pmiLogImport(sys.argv[2])
log.pmiSetTimezone("UTC")
domain = log.pmiInDom(245, 1)
log.pmiAddMetric("load.work", log.pmiID(245, 1, 1), PM_TYPE_U64, domain, PM_SEM_COUNTER, log.pmiUnits(0, 0, 1, 0, 0, 0))
handles = []
for i in range(len(totals)):
    log.pmiAddInstance(domain, f"/kubepods/pod{i:04}", i)
    handles.append(log.pmiGetHandle("load.work", f"/kubepods/pod{i:04}"))
start = int(sys.argv[3])
for t in range(len(totals[0])):
    for handle, values in zip(handles, totals):
        log.pmiPutValueHandle(handle, str(values[t]))
    log.pmiWrite(start + t, 0)
del log
