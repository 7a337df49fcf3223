/* Waits for a CPU, and CPUs that do not schedule.
 *
 * The kernel keeps for every task when it began to wait and to run (sched_info), so one program on the switch is enough:
 * no map of tasks, no program on wake-ups. All times here are the run queue's own clock. */
#pragma once
#include "common.h"

/* What a task's run_delay was when it last began to run. A wait that a migration split is summed there by the kernel,
 * while last_queued tells only of its last part. Pids share entries; the tag tells whose it is. */
struct waited {
	__u64 run_delay;
	__u32 pid;
	__u32 pad;
};

#define WAITED 32768

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAITED);
	__type(key, __u32);
	__type(value, struct waited);
} waited SEC(".maps");

NOINLINE int send_nosched_end(struct task_struct *t, __u64 dur_ns)
{
	struct ws_cpu *cpu = this_cpu();
	struct ws_head *e;

	if (!cpu)
		return 0;
	e = reserve(cpu, WS_NOSCHED_END, dur_ns >= 4 * nosched_threshold_ns, limit_few, sizeof(*e));
	if (!e)
		return 0;
	fill_head(e, WS_NOSCHED_END, dur_ns, 0, t);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

NOINLINE int send_runq(struct task_struct *t, __u64 delay, __u64 clock)
{
	struct task_group *group = t->sched_task_group;
	struct ws_cpu *cpu = this_cpu();
	struct ws_runq *e;
	__u32 found = 0;

	if (!cpu)
		return 0;
	e = reserve(cpu, WS_RUNQ, delay >= 4 * runq_threshold_ns, limit_few, sizeof(*e));
	if (!e)
		return 0;
	fill_head(&e->head, WS_RUNQ, delay, 0, t);
	e->clock = clock;
	e->allowed = t->nr_cpus_allowed;
	bpf_probe_read_kernel(e->quotas, sizeof(e->quotas), 0); /* fails, and so fills with zeroes */
#pragma clang loop unroll(disable)
	for (int depth = 0; depth < 16 && group; depth++) {
		if (group->cfs_bandwidth.quota != ~0ULL) {
			struct ws_quota *q = &e->quotas[found & (WS_QUOTAS - 1)];
			struct cgroup *c = group->css.cgroup;

			q->cgroup = c ? c->kn->id : 0;
			q->throttled = group->cfs_bandwidth.nr_throttled;
			if (++found == WS_QUOTAS)
				break;
		}
		group = group->parent;
	}
	e->run_pos = cpu->run_pos;
	bpf_probe_read_kernel(e->runs, sizeof(e->runs), cpu->runs);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* A run of long_run_ns or more ended: a possible culprit of waits that end later. */
NOINLINE int end_long_run(struct task_struct *t, __u64 start, __u64 end)
{
	struct ws_cpu *cpu = this_cpu();
	struct ws_run *run;
	__u32 i;

	if (!cpu)
		return 0;
	i = cpu->run_pos & (WS_RUNS - 1);
	run = &cpu->runs[i];
	run->start = start;
	run->end = end;
	run->cgroup = cpu_cgroup_of(t);
	run->tgid = t->tgid;
	run->policy = t->policy;
	bpf_probe_read_kernel(run->comm, sizeof(run->comm), (void *)__builtin_preserve_access_index(&t->comm));
	cpu->run_pos = (i + 1) & (WS_RUNS - 1);
	if (cpu->told_since >= start) {
		send_nosched_end(t, end - cpu->told_since);
		cpu->told_since = 0;
	}
	return 0;
}

/* A wait of runq_floor_ns or more ended. */
NOINLINE int end_wait(struct task_struct *t, __u64 delay, __u64 clock)
{
	struct ws_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	hist_add(&cpu->runq, delay);
	hist_add_cgroup(cpu_cgroup_of(t), WS_RUNQ, delay);
	if (delay >= runq_threshold_ns)
		send_runq(t, delay, clock);
	return 0;
}

/* The hottest program: what nearly every switch does is here, the rest in functions of its own. */
SEC("tp_btf/sched_switch")
int sched_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
	__u64 now = next->se.cfs_rq->rq->clock, arrival = prev->sched_info.last_arrival;
	__u64 queued = next->sched_info.last_queued, run_delay;
	struct waited *before;
	__u32 pid, index;
	__s64 delay;

	if (arrival && (__s64)(now - arrival) >= (__s64)long_run_ns && prev->pid)
		end_long_run(prev, arrival, now);
	delay = now - queued;
	if (!queued || delay < 0)
		return 0;
	pid = next->pid;
	if (!pid)
		return 0;
	index = pid & (WAITED - 1);
	run_delay = next->sched_info.run_delay + delay;
	before = bpf_map_lookup_elem(&waited, &index);
	if (before) {
		if (before->pid == pid && (__s64)(run_delay - before->run_delay) > delay)
			delay = run_delay - before->run_delay;
		before->run_delay = run_delay;
		before->pid = pid;
	}
	if (delay >= (__s64)runq_floor_ns)
		end_wait(next, delay, now);
	return 0;
}

INLINE bool is_rt(struct task_struct *t)
{
	return t->policy == 1 || t->policy == 2 || t->policy == 6; /* FIFO, RR, DEADLINE */
}

/* Registers of the user's program that are looked at: all of x86-64's but one, x0 to x19 of arm64's. */
#define REGISTERS 20

/* What the user's program was doing when it entered the kernel, in one number: its registers stay the same during a system
 * call, and hardly any two calls of a loop have the same in all of them. */
NOINLINE __u64 entered_with(struct task_struct *t)
{
	__u64 registers[REGISTERS], sum = 0;

	if (bpf_probe_read_kernel(registers, sizeof(registers), (const void *)bpf_task_pt_regs(t)))
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < REGISTERS; i++)
		sum = sum * 31 + registers[i];
	return sum;
}

/* Moves when a task comes back from a piece of kernel work: a tick in user mode, a page fault, a read or write, another
 * system call. */
INLINE __u64 progress_of(struct task_struct *t)
{
	__u64 done = t->utime + t->min_flt + entered_with(t);

	if (HAS(t->ioac.syscr))
		done += t->ioac.syscr + t->ioac.syscw;
	return done;
}

/* Tasks that want this CPU or have it, without sleepers that are only still queued. */
INLINE __u32 runnable_on(struct rq *rq)
{
	__u32 queued = rq->nr_running;

	if (HAS(rq->cfs.h_nr_delayed))
		return queued - rq->cfs.h_nr_delayed;
	if (HAS(rq->cfs.h_nr_runnable) && HAS(rq->cfs.h_nr_queued))
		return queued - (rq->cfs.h_nr_queued - rq->cfs.h_nr_runnable);
	return queued;
}

/* A jump of the clock is no hold: the timer must have looked at it this often. */
#define HOLD_CHECKS 3

/* Called from a hard timer: does the interrupted task hold the CPU for long while others wait? A real-time task does so
 * from when it was put on the CPU. Any other only while it shows no progress in one piece of kernel work: in user mode
 * the scheduler takes the CPU away when it wants, and a heavier task may get it again and again without a switch.
 * Told at the threshold, at four times of it, and then whenever it has doubled, but at least every other second. */
INLINE void check_nosched(void *ctx, struct ws_cpu *cpu)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct rq *rq = t->se.cfs_rq->rq;
	__u64 arrival = t->sched_info.last_arrival, clock = rq->clock, progress, since, more;
	__u32 runnable = runnable_on(rq);
	__s64 held;

	if (!t->pid)
		return;
	progress = progress_of(t);
	if (cpu->hold_arrival != arrival) {
		cpu->hold_arrival = arrival;
		cpu->hold_since = arrival;
		cpu->hold_progress = progress;
		cpu->hold_checks = 0;
	} else if (cpu->hold_progress != progress) {
		if (cpu->told_since && cpu->told_since == cpu->hold_since && !is_rt(t)) {
			send_nosched_end(t, cpu->hold_checked - cpu->told_since);
			cpu->told_since = 0;
		}
		cpu->hold_since = cpu->hold_checked;
		cpu->hold_progress = progress;
		cpu->hold_checks = 0;
	}
	cpu->hold_checked = clock;
	cpu->hold_checks++;
	since = is_rt(t) ? arrival : cpu->hold_since;
	held = clock - since;
	if (runnable < 2 || held < (__s64)nosched_threshold_ns)
		return;
	if (cpu->hold_checks < HOLD_CHECKS && !is_rt(t))
		return;
	if (cpu->told_since == since && held < (__s64)cpu->told_next)
		return;
	more = held < 2000000000LL ? held : 2000000000LL;
	cpu->told_next = cpu->told_since == since ? held + more : 4 * nosched_threshold_ns;
	cpu->told_since = since;
	send_stack(ctx, WS_NOSCHED, held, runnable, held >= 4 * (__s64)nosched_threshold_ns);
}
