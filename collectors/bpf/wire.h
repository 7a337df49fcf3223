/* What the BPF programs and the daemon exchange. collectors/src/bpf/wire.rs mirrors it, and its tests compare sizes and
 * offsets with those that this header asserts. Only fixed-size, naturally aligned fields; no implicit padding. */
#pragma once

/* What an event is about; also the index of its rate limit. */
enum ws_kind {
	WS_RUNQ = 1,		/* struct ws_runq: a task waited long for its CPU */
	WS_NOSCHED = 2,		/* struct ws_stack: a task holds its CPU while others wait; aux = runnable tasks; again as it goes on */
	WS_NOSCHED_END = 3,	/* struct ws_head: ... and gave it back */
	WS_SOFTIRQ_DELAY = 4,	/* struct ws_stack: raised to begun; aux = vector */
	WS_SOFTIRQ_RUN = 5,	/* struct ws_stack: begun to ended; aux = vector */
	WS_SOFTIRQ_PENDING = 6,	/* struct ws_stack: raised and still waiting; aux = vector */
	WS_IRQ = 7,		/* struct ws_irq: a hard interrupt's handler ran long; aux = number */
	WS_IRQOFF = 8,		/* struct ws_stack: a hard timer came late */
	WS_RECLAIM = 9,		/* struct ws_head: direct reclaim for the node; aux = pages */
	WS_MEMCG_RECLAIM = 10,	/* struct ws_head: direct reclaim for a memory cgroup; aux = pages */
	WS_COMPACTION = 11,	/* struct ws_head: direct compaction; aux = order, or ~0 if unknown */
	WS_THROTTLED = 12,	/* struct ws_head: slept in reclaim; aux = reason */
	WS_CGROUP_MKDIR = 13,	/* struct ws_life */
	WS_CGROUP_RMDIR = 14,	/* struct ws_life */
	WS_CGROUP_RELEASE = 15,	/* struct ws_life */
	WS_LOCK = 16,		/* struct ws_stack: waited for a kernel lock; aux = the tracepoint's flags */
	WS_KINDS = 32,
};

#define WS_COMM 16	/* TASK_COMM_LEN */
#define WS_STACK 24	/* frames of a stack */
#define WS_RUNS 64	/* runs remembered a CPU */
#define WS_PATH 384	/* bytes of a cgroup path, NUL included */
#define WS_SLOTS 28	/* slots of a histogram: 0 is below 1 us, i is [2^(i-1), 2^i) us, the last is open */
#define WS_VECTORS 10	/* softirq vectors */
#define WS_QUOTAS 4	/* cgroups with a quota above a task that are told */

/* ws_head.flags */
#define WS_KTHREAD 1	/* a kernel thread */

/* Every event begins with this. The task is the current one; for WS_RUNQ the one that waited. */
struct ws_head {
	__u32 kind;
	__u32 cpu;
	__u64 boot_ns;		/* CLOCK_BOOTTIME */
	__u64 dur_ns;
	__u64 aux;
	__u64 cpu_cgroup;	/* id = inode number of the directory; 1 is the root */
	__u64 mem_cgroup;	/* 0 where the kind does not look at it */
	__u32 pid;		/* thread */
	__u32 tgid;		/* process */
	__u16 prio;		/* the kernel's: below 100 is real time */
	__u16 flags;
	__u32 policy;		/* SCHED_* */
	char comm[WS_COMM];
};

struct ws_stack {
	struct ws_head head;
	__s64 stack_len;	/* bytes, or a negative error */
	__u64 stack[WS_STACK];	/* addresses, innermost first */
};

struct ws_irq {
	struct ws_head head;
	char name[32];
};

/* One uninterrupted run of a task on a CPU. */
struct ws_run {
	__u64 start;		/* the run queue's clock */
	__u64 end;
	__u64 cgroup;
	__u32 tgid;
	__u32 policy;
	char comm[WS_COMM];
};

/* A cgroup with a CPU quota. */
struct ws_quota {
	__u64 cgroup;		/* 0 if there are no more */
	__u64 throttled;	/* its nr_throttled */
};

struct ws_runq {
	struct ws_head head;
	__u64 clock;		/* the run queue's clock at the end of the wait */
	struct ws_quota quotas[WS_QUOTAS]; /* of the waiting task's cgroup and its ancestors, nearest first */
	__u32 allowed;		/* CPUs on which the waiting task may run */
	__u32 run_pos;		/* where the next run would go: the oldest of runs[] */
	struct ws_run runs[WS_RUNS];
};

struct ws_life {
	struct ws_head head;	/* aux = the cgroup's id, mem_cgroup = its parent's */
	__s64 charged;		/* on rmdir: pages still charged to it, those charged ahead included */
	char path[WS_PATH];
};

/* Kept for a memory or CPU cgroup and a kind (WS_RUNQ, WS_RECLAIM, ...). */
struct ws_hist_key {
	__u64 cgroup;
	__u64 kind;
};

struct ws_hist {
	__u64 count;
	__u64 sum_ns;
	__u64 max_ns;		/* may miss one of two that end at the same time on two CPUs */
	__u64 slots[WS_SLOTS];
};

struct ws_rate {
	__u64 window_ns;
	__u32 sent;
	__u32 pad;
	__u64 suppressed;	/* held back by the limit */
	__u64 lost;		/* no room in the ring buffer or in a table */
};

/* The state of a CPU. */
struct ws_cpu {
	__u64 softirqs;			/* softirqs seen */
	__u64 raised[WS_VECTORS];	/* when each vector was raised, 0 if it is not */
	__u64 softirq_entry;
	__u64 irq_entry;
	__u64 irqoff_seen;		/* the last late timer: timers due before it belong to the same stall */
	__u64 checked;			/* when this CPU was last looked at */
	__u64 hold_arrival;		/* the run that is watched, by its beginning */
	__u64 hold_progress;		/* ... what it had done when last looked at */
	__u64 hold_since;		/* ... since when it shows no progress */
	__u64 hold_checked;		/* ... when it was last looked at */
	__u64 hold_checks;		/* ... how often since hold_since */
	__u64 told_since;		/* the hold that was told, by its beginning; 0 if it has ended */
	__u64 told_next;		/* ... and how long it must last to be told again */
	__u64 spin_lock;		/* the lock that is spun for, and since when; 0 if none */
	__u64 spin_began;
	__u32 pending_seen;		/* vectors reported as pending */
	__u32 run_pos;
	struct ws_hist runq;
	struct ws_rate rate[2 * WS_KINDS]; /* [kind], and [WS_KINDS + kind] for what is 4 times the threshold or more */
	struct ws_run runs[WS_RUNS];
};

/* The programs' only writable global. */
struct ws_shared {
	__u64 softirq_epoch_ns;	/* written by the daemon: softirqs raised before were not all watched (CLOCK_MONOTONIC) */
	__u64 hists_full;	/* values for which there was no room in the histograms */
};

_Static_assert(sizeof(struct ws_head) == 80, "ws_head");
_Static_assert(sizeof(struct ws_stack) == 280, "ws_stack");
_Static_assert(sizeof(struct ws_irq) == 112, "ws_irq");
_Static_assert(sizeof(struct ws_run) == 48, "ws_run");
_Static_assert(sizeof(struct ws_runq) == 3232, "ws_runq");
_Static_assert(sizeof(struct ws_quota) == 16, "ws_quota");
_Static_assert(sizeof(struct ws_life) == 472, "ws_life");
_Static_assert(sizeof(struct ws_hist_key) == 16, "ws_hist_key");
_Static_assert(sizeof(struct ws_hist) == 248, "ws_hist");
_Static_assert(sizeof(struct ws_rate) == 32, "ws_rate");
_Static_assert(sizeof(struct ws_cpu) == 5568, "ws_cpu");
_Static_assert(sizeof(struct ws_shared) == 16, "ws_shared");
