#!/usr/bin/env python3
"""Replays the same samples through whystall, pmie, Prometheus, pandas and polars, side by side, and compares what fires
and the CPU time that it takes.

    benches/peers/run.py [--scratch DIR] [--cgroups 1000] [--seconds 3600] [--rounds 3] [--rules 1,10,50] [--every 1|60]
        [--skip PEER,...]

One counter for each cgroup, once a second. A rule says: its rate over 60 s is above a line. The peers judge once a minute,
their cheapest way, or with --every 1 (not pmie) as often as whystall, which judges at each of its ticks, once a second; what fires is compared at the minutes. Peers come from Debian's packages
(apt-get download) and PyPI, unpacked into the scratch folder; nothing is installed and no service started but Prometheus,
on loopback, ended again. CPU time is user and system time of the whole process; of Prometheus, whose server runs already,
that of the queries only. Needs `cargo build --release --example pack --bin whystall`.
"""
import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / os.environ.get("PROFILE", "release")
START = 1_700_006_400  # a multiple of two hours, so that Prometheus makes one block
PACKAGES = "prometheus pcp pcp-conf libpcp3 libpcp-archive1 libpcp-import1 libpcp-pmda3 libpcp-gui2 libpcp-web1 python3-pcp"
PORT = 29_090


def cpu_of(command, **kwargs):
    """Runs a command; returns its CPU seconds and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **kwargs).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out


def name(i):
    return f"/kubepods/pod{i:04}"


def lines(n):
    """The lines of n rules, none of which is a multiple of 1/60."""
    return [50.007 + 3.0 * i for i in range(n)]


def increments(cgroups, seconds):
    """Per cgroup and second: a quiet counter; some have a burst of some minutes with one of several heights."""
    rng = random.Random(7)
    rows = []
    for i in range(cgroups):
        row = [rng.randrange(0, 20) for _ in range(seconds)]
        if i % 50 == 3:
            begin, length = rng.randrange(70, max(71, seconds - 400)), rng.randrange(90, 300)
            high = rng.randrange(40, 250)
            for t in range(begin, min(seconds, begin + length)):
                row[t] += high
        rows.append(row)
    return rows


# --- Installing -------------------------------------------------------------------------------------------------------


def install(scratch):
    root, python = scratch / "root", scratch / "python"
    if not (root / "usr/bin/pmie").exists():
        debs = scratch / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", *PACKAGES.split()], cwd=debs, check=True)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    if not (python / "polars").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", python, "pandas", "polars", "pyarrow"]
        subprocess.run(pip, check=True)
    return root, python


def pcp_environment(root):
    lib = f"{root}/usr/lib:{root}/usr/lib/x86_64-linux-gnu"
    return dict(
        os.environ,
        LD_LIBRARY_PATH=lib,
        PCP_CONF=f"{root}/etc/pcp.conf",
        PCP_DIR=str(root),
        PYTHONPATH=f"{root}/usr/lib/python3/dist-packages",
    )


# --- The data in each form --------------------------------------------------------------------------------------------


def make_data(scratch, root, python, cgroups, seconds):
    data = scratch / f"data-{cgroups}x{seconds}"
    if (data / "done").exists():
        return data
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    totals = []
    for row in increments(cgroups, seconds):
        sums, total = [], 0
        for x in row:
            total += x
            sums.append(total)
        totals.append(sums)
    print("making: JSON lines and the recording", flush=True)
    with open(data / "events.jsonl", "w", encoding="ascii") as f:
        f.write('{"declare": {"stream": "load", "subjects": ["cgroup"], "fields": {"work": "counter"}}}\n')
        for t in range(seconds):
            for i in range(cgroups):
                f.write(f'{{"t":{START + t},"stream":"load","subject":"cgroup:{name(i)}","work":{totals[i][t]}}}\n')
    with open(data / "events.jsonl", "rb") as f:
        subprocess.run([BIN / "examples/pack", data / "events.ws"], stdin=f, check=True)
    print("making: the Prometheus block", flush=True)
    with open(data / "om.txt", "w", encoding="ascii") as f:
        f.write("# TYPE load counter\n")
        for i in range(cgroups):
            for t in range(seconds):
                f.write(f'load_total{{cgroup="{name(i)}"}} {totals[i][t]} {START + t}\n')
        f.write("# EOF\n")
    promtool = [root / "usr/bin/promtool", "tsdb", "create-blocks-from", "openmetrics", data / "om.txt", data / "tsdb"]
    subprocess.run(promtool, check=True, stdout=subprocess.DEVNULL)
    (data / "om.txt").unlink()
    print("making: the table for pandas and polars", flush=True)
    with open(data / "totals.json", "w", encoding="ascii") as f:
        json.dump(totals, f)
    code = (
        "import json,sys,pandas as pd\n"
        "t=json.load(open(sys.argv[1]))\n"
        "d=pd.DataFrame({f'/kubepods/pod{i:04}':c for i,c in enumerate(t)},dtype='int64')\n"
        "d.to_parquet(sys.argv[2])\n"
        "d.to_feather(sys.argv[3],compression='uncompressed')\n"
    )
    table = [sys.executable, "-c", code, data / "totals.json", data / "wide.parquet", data / "wide.feather"]
    subprocess.run(table, env=dict(os.environ, PYTHONPATH=str(python)), check=True)
    print("making: the PCP archive", flush=True)
    archive = [sys.executable, HERE / "pcp_archive.py", data / "totals.json", data / "archive", str(START)]
    subprocess.run(archive, env=pcp_environment(root), check=True)
    (data / "totals.json").unlink()
    (data / "done").touch()
    return data


# --- The peers: each returns the CPU seconds and, for each rule, the set of (cgroup, minute) that fire ---------------


def whystall(data, scratch, n, form):
    rules = scratch / f"rules-{n}"
    if not rules.exists():
        rules.mkdir()
        for i, line in enumerate(lines(n)):
            (rules / f"r{i}.rhai").write_text(
                "//! The rate of work is above a line.\n"
                f'const RULE = #{{ id: "peers.r{i}", api: 1, severity: "info", subject: "cgroup",\n'
                '  streams: #{ load: #{ subjects: ["cgroup"], fields: #{ work: #{ kind: "counter", help: "work" } } } },\n'
                f'  params: #{{ line: #{{ value: {line}, min: 0.0, unit: "1/s", help: "the line" }} }},\n'
                '  windows: #{ work: #{ of: "load.work", calc: "rate", over: "60s", coverage: 1.0 } },\n'
                '  fire: #{ hold: "0s" }, clear: #{ hold: "0s" } };\n'
                "fn enter(w, p) { w.work.value > p.line }\n"
            )
    program = BIN / "whystall"
    command = [program, "replay", data / form, "--rules", rules, "--no-builtin-rules", "--output", "json"]
    cpu, out = cpu_of(command, stderr=subprocess.DEVNULL)
    return cpu, out


def fired_by_whystall(out, n, seconds):
    fired = [set() for _ in range(n)]
    since = {}

    def minutes(rule, subject, begin, end):
        fired[rule].update((subject, m) for m in range(60, seconds, 60) if begin <= m < end)

    for line in out.splitlines():
        v = json.loads(line)
        rule, subject = int(v["rule"].removeprefix("peers.r")), v["subject"].removeprefix("cgroup:")
        if v["state"] == "firing":
            since[rule, subject] = second(v["started_at"])
        elif v["state"] == "resolved":
            minutes(rule, subject, since.pop((rule, subject)), second(v["resolved_at"]))
    for (rule, subject), begin in since.items():
        minutes(rule, subject, begin, seconds)
    return fired


def second(stamp):
    import calendar

    whole = calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    return whole + (float("0." + stamp[20:-1]) if "." in stamp else 0.0) - START


def pmie(data, scratch, root, n):
    rules = scratch / f"pmie-{n}.conf"
    # Of counters pmie takes the rate by itself, between one judgement and the next: over 60 s only if it judges each 60 s.
    body = "delta = 60 sec;\n"
    for i, line in enumerate(lines(n)):
        body += f"r{i} = some_inst ( load.work > {line} ) -> print \"r{i}\" \" %i\";\n"
    rules.write_text(body)
    command = [root / "usr/bin/pmie", "-e", "-Z", "UTC", "-a", data / "archive", "-c", rules]
    return cpu_of(command, env=pcp_environment(root), stderr=subprocess.DEVNULL)


def fired_by_pmie(out, n):
    import calendar

    fired = [set() for _ in range(n)]
    for line in out.decode().splitlines():
        m = re.match(r"print \w+ (\w+ +\d+ [\d:]+ \d{4}): (.*)$", line)
        if not m:
            continue
        minute = calendar.timegm(time.strptime(m[1], "%b %d %H:%M:%S %Y")) - START
        rule, *cgroups = m[2].split()
        fired[int(rule.removeprefix("r"))].update((cgroup, minute) for cgroup in cgroups)
    return fired


class Prometheus:
    def __init__(self, root, data, scratch):
        config = scratch / "prometheus.yml"
        config.write_text("global: {}\n")
        tsdb = scratch / "tsdb-run"
        shutil.rmtree(tsdb, ignore_errors=True)
        shutil.copytree(data / "tsdb", tsdb)
        self.log = open(scratch / "prometheus.log", "w", encoding="utf-8")
        command = [root / "usr/bin/prometheus", f"--config.file={config}", f"--storage.tsdb.path={tsdb}"]
        command += ["--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{PORT}"]
        self.server = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/-/ready", timeout=5).read()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("Prometheus does not get ready: see prometheus.log")

    def cpu(self):
        # Nanoseconds; Go keeps its threads.
        tasks = Path(f"/proc/{self.server.pid}/task").glob("*/schedstat")
        return sum(int(t.read_text().split()[0]) for t in tasks) / 1e9

    def query(self, n, seconds, every):
        before, answers = self.cpu(), []
        for line in lines(n):
            query = {"query": f"rate(load_total[60s]) > {line}", "start": START + 60, "end": START + seconds - 1, "step": every}
            url = f"http://127.0.0.1:{PORT}/api/v1/query_range?{urllib.parse.urlencode(query)}"
            answers.append(urllib.request.urlopen(url, timeout=600).read())
        spent = self.cpu() - before
        fired = []
        for answer in answers:
            series = json.loads(answer)["data"]["result"]
            fired.append({(s["metric"]["cgroup"], int(t) - START) for s in series for t, _ in s["values"] if (int(t) - START) % 60 == 0})
        return spent, fired

    def end(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait()
        self.log.close()


TABLE = {
    "pandas": (
        "import sys,pandas as pd\n"
        "d=pd.read_feather(sys.argv[1])\n"
        "lines=[float(x) for x in sys.argv[2:]]\n"
        "r=d.diff(60)/60.0\n"
        "r=r.iloc[60::EVERY]\n"
        "for i,x in enumerate(lines):\n"
        "  s=(r>x).stack()\n"
        "  for t,c in s[s].index:\n"
        "    if t%60==0: print(i,c,t)\n"
    ),
    "polars": (
        "import sys,polars as pl\n"
        "d=pl.read_ipc(sys.argv[1])\n"
        "lines=[float(x) for x in sys.argv[2:]]\n"
        "r=d.select(pl.all().diff(60)/60.0).with_row_index('t').filter((pl.col('t')>=60)&(pl.col('t')%EVERY==0))\n"
        "r=r.unpivot(index='t',variable_name='c',value_name='v')\n"
        "for i,x in enumerate(lines):\n"
        "  for t,c in r.filter(pl.col('v')>x).select('t','c').iter_rows():\n"
        "    if t%60==0: print(i,c,t)\n"
    ),
}


def table(peer, data, python, n, every):
    command = [sys.executable, "-c", TABLE[peer].replace("EVERY", str(every)), data / "wide.feather", *map(str, lines(n))]
    # One thread: threads of their own cost CPU time and save only the clock.
    env = dict(os.environ, PYTHONPATH=str(python), POLARS_MAX_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    return cpu_of(command, env=env)


def fired_by_table(out, n):
    fired = [set() for _ in range(n)]
    for line in out.decode().splitlines():
        rule, cgroup, t = line.split()
        fired[int(rule)].add((cgroup, int(t)))
    return fired


def json_python(data, n):
    command = [sys.executable, HERE / "json_deques.py", data / "events.jsonl", str(START), *map(str, lines(n))]
    return cpu_of(command)


# --- The comparison ---------------------------------------------------------------------------------------------------


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--scratch", type=Path, default=Path("/tmp/whystall-peers"))
    a.add_argument("--cgroups", type=int, default=1000)
    a.add_argument("--seconds", type=int, default=3600)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--rules", default="1,10,50")
    a.add_argument("--every", type=int, default=60, choices=[1, 60], help="seconds between the peers' judgements")
    a.add_argument("--skip", default="")
    args = a.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    skip = args.skip.split(",")
    root, python = install(args.scratch)
    data = make_data(args.scratch, root, python, args.cgroups, args.seconds)
    samples = args.cgroups * args.seconds
    peers = [p for p in ("whystall", "pmie", "prometheus", "pandas", "polars", "whystall-json", "python-json") if p not in skip]
    server = Prometheus(root, data, args.scratch) if "prometheus" in peers else None
    wrong = 0
    try:
        for n in map(int, args.rules.split(",")):
            spent = {p: [] for p in peers}
            fired = {}
            for _ in range(args.rounds):
                for p in peers:
                    if p.endswith("json") and n > 1:
                        continue
                    if p == "whystall":
                        cpu, out = whystall(data, args.scratch, n, "events.ws")
                        fired[p] = fired_by_whystall(out, n, args.seconds)
                    elif p == "whystall-json":
                        cpu, out = whystall(data, args.scratch, n, "events.jsonl")
                        fired[p] = fired_by_whystall(out, n, args.seconds)
                    elif p == "pmie":
                        cpu, out = pmie(data, args.scratch, root, n)
                        fired[p] = fired_by_pmie(out, n)
                    elif p == "prometheus":
                        cpu, fired[p] = server.query(n, args.seconds, args.every)
                    elif p == "python-json":
                        cpu, out = json_python(data, n)
                        fired[p] = fired_by_table(out, n)
                    else:
                        cpu, out = table(p, data, python, n, args.every)
                        fired[p] = fired_by_table(out, n)
                    spent[p].append(cpu)
            report(n, samples, spent)
            wrong += differences(fired, n)
    finally:
        if server:
            server.end()
    print(f"load average meanwhile: {os.getloadavg()}, {os.cpu_count()} CPUs")
    sys.exit(1 if wrong else 0)


def report(n, samples, spent):
    ours = spent.get("whystall") or [float("nan")]
    print(f"\n{n} rules, {samples} samples: CPU seconds, median (least-greatest); times whystall's, median of pairs")
    for p, all_of in spent.items():
        if not all_of:
            continue
        base = spent["whystall-json"] if p == "python-json" and spent.get("whystall-json") else ours
        ratio = statistics.median(x / y for x, y in zip(all_of, base))
        median = statistics.median(all_of)
        print(f"  {p:14} {median:8.3f} ({min(all_of):.3f}-{max(all_of):.3f})  {samples / median / 1e6:7.2f} M/s  {ratio:7.1f} x")


def differences(fired, n):
    wrong = 0
    want = fired.get("whystall") or next(iter(fired.values()))
    print(f"  fired: {sum(map(len, want))} of cgroup, minute and rule in {sum(bool(s) for s in want)} of {n} rules")
    for p, sets in fired.items():
        for i, (mine, theirs) in enumerate(zip(want, sets)):
            if mine != theirs:
                wrong += 1
                more, less = sorted(theirs - mine)[:3], sorted(mine - theirs)[:3]
                print(f"  DIFFERENT: {p}, rule {i}: {len(theirs - mine)} more {more}, {len(mine - theirs)} less {less}")
                break
        else:
            print(f"  {p}: the same")
    return wrong


if __name__ == "__main__":
    main()
