//! The streams of `schedstat` and their fields.

use whystall_event::{Field, Stream, SubjectKind, Unit};

use crate::cgroup::fields;

fields! { TASK, t:
    RUN = Field::counter("run", Unit::Time, "time on a CPU");
    RUN_DELAY = Field::counter("run_delay", Unit::Time, "time runnable but waiting for a CPU; a wait counts when it ends");
    SLICES = Field::counter("slices", Unit::Count, "times put on a CPU");
    DELAY_PER_SLICE = Field::gauge("delay_per_slice", Unit::Time, "mean wait before a slice since the last reading; absent under two slices");
    WAITS = Field::gauge("state_running_unscheduled", Unit::None, "1 if runnable but neither run nor put on a CPU since the last pass: its delay is not counted yet; absent where the state is not known");
    WAITING_FOR = Field::gauge("waiting_for", Unit::Time, "how long it has been seen runnable without running, a lower bound");
    SHARE = Field::gauge("share", Unit::Ratio, "part of one CPU used since the last reading");
    POLICY = Field::gauge("policy", Unit::None, "scheduling policy as last read: 0 other, 1 FIFO, 2 RR, 3 batch, 5 idle, 6 deadline, 7 ext");
    RT_PRIO = Field::gauge("rt_prio", Unit::None, "real-time priority as last read, 1 to 99; 0 for other policies");
    KTHREAD = Field::gauge("kthread", Unit::None, "1 for a kernel thread");
    PID = Field::gauge("pid", Unit::None, "the process that the task belongs to");
    COMM = Field::text("comm", "the task's name");
    CGROUP = Field::text("cgroup", "the task's control group, of the v1 cpu controller or of v2");
}

fields! { GROUP, g:
    RUN = Field::counter("run", Unit::Time, "time on a CPU of its tasks that were seen, without those in cgroups below");
    RUN_DELAY = Field::counter("run_delay", Unit::Time, "time that its tasks waited for a CPU, without those in cgroups below");
    SLICES = Field::counter("slices", Unit::Count, "times its tasks were put on a CPU");
    TASKS = Field::gauge("tasks", Unit::Count, "its tasks that are followed");
    WORST = Field::gauge("worst_delay_per_slice", Unit::Time, "the greatest mean wait before a slice of one of its tasks");
    STARVED = Field::gauge("starved", Unit::Count, "its tasks that were found runnable without having run since the last pass");
    VICTIM = Field::text("victim", "the name of the task that waited longest for each slice");
    VICTIM_PID = Field::gauge("victim_pid", Unit::None, "its task id");
}

fields! { CPU, c:
    RUN = Field::counter("run", Unit::Time, "time that tasks ran on the CPU");
    RUN_DELAY = Field::counter("run_delay", Unit::Time, "time that tasks waited on the CPU's run queue");
    SLICES = Field::counter("slices", Unit::Count, "time slices given on the CPU");
}

fields! { SOFTIRQD, s:
    RUN = Field::counter("run", Unit::Time, "time that the CPU's ksoftirqd ran");
    RUN_DELAY = Field::counter("run_delay", Unit::Time, "time that it waited for the CPU; a wait counts when it ends");
    SLICES = Field::counter("slices", Unit::Count, "times it was put on the CPU");
    DELAY_PER_SLICE = Field::gauge("delay_per_slice", Unit::Time, "mean wait before a slice since the last reading; absent under two slices");
    STARVED = Field::gauge("starved", Unit::None, "1 if runnable but not run since the last pass; absent where the state is not known");
    WAITING_FOR = Field::gauge("waiting_for", Unit::Time, "how long it has been seen runnable without running, a lower bound");
    PID = Field::gauge("pid", Unit::None, "its task id");
}

fields! { RUNNING, r:
    TASKS = Field::gauge("tasks", Unit::Count, "host: tasks followed");
    LEFT_OUT = Field::gauge("left_out", Unit::Count, "host: tasks that wait for their turn because of max_tasks");
    RUNNABLE = Field::gauge("runnable", Unit::Count, "host: tasks running or runnable at the pass, whystall included");
    RUN = Field::counter("run", Unit::Time, "host: time on a CPU of all tasks seen");
    RUN_DELAY = Field::counter("run_delay", Unit::Time, "host: time that all tasks seen waited for a CPU");
    SLICES = Field::counter("slices", Unit::Count, "host: times that tasks were put on a CPU");
    STARVED = Field::gauge("starved", Unit::Count, "host: tasks found runnable without having run since the last pass");
    WORST = Field::gauge("worst_delay_per_slice", Unit::Time, "host: the greatest mean wait before a slice of any task");
    VICTIM = Field::text("victim", "host: the name of the task that waited longest for each slice");
    VICTIM_PID = Field::gauge("victim_pid", Unit::None, "host: its task id");
    RT_HOGS = Field::gauge("rt_hogs", Unit::Count, "FIFO and RR tasks that used more than half of a CPU: on the host, or on this CPU");
    RT_COMM = Field::text("rt_comm", "the name of the FIFO or RR task that used most CPU");
    RT_PID = Field::gauge("rt_pid", Unit::None, "its task id");
    RT_SHARE = Field::gauge("rt_share", Unit::Ratio, "the part of a CPU that it used");
    TOP_COMM = Field::text("top_comm", "the name of the task that used most CPU: of the host, or last seen on this CPU");
    TOP_PID = Field::gauge("top_pid", Unit::None, "its task id");
    TOP_SHARE = Field::gauge("top_share", Unit::Ratio, "the part of a CPU that it used");
    TOP_POLICY = Field::gauge("top_policy", Unit::None, "its scheduling policy, numbered as in schedstat.policy");
    TOP_CGROUP = Field::text("top_cgroup", "its control group");
}

pub(super) static STREAMS: &[Stream] = &[
    Stream::sampled("schedstat", "run-queue delay of one task", &[SubjectKind::Task], TASK),
    Stream::sampled(
        "schedstat.cgroup",
        "run-queue delay of a control group's own tasks",
        &[SubjectKind::Cgroup],
        GROUP,
    ),
    Stream::sampled(
        "schedstat.cpu",
        "run-queue delay on one CPU, where the kernel has SCHEDSTATS",
        &[SubjectKind::Cpu],
        CPU,
    ),
    Stream::sampled(
        "schedstat.ksoftirqd",
        "run-queue delay of a CPU's ksoftirqd",
        &[SubjectKind::Cpu],
        SOFTIRQD,
    ),
    Stream::sampled(
        "schedstat.running",
        "who uses the CPUs and who waits most",
        &[SubjectKind::Host, SubjectKind::Cpu],
        RUNNING,
    ),
];
