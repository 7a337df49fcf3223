/* Bounded faults for tests, never part of the daemon: each program keeps its CPU busy for cfg_loops * ~0.9 ms in the
 * context that it is attached to. */
#include "bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

volatile const __u32 cfg_loops = 0;
/* The only writable global, so that tests know its layout. */
volatile struct {
	__u64 runs;		/* how often it ran */
	__u64 last_ns;		/* how long the last time took */
	__u64 free_since;	/* when the last time ended */
	__u64 sink;
} state;

static long inner(__u32 i, void *ctx)
{
	state.sink += i;
	return 0;
}

static long outer(__u32 i, void *ctx)
{
	bpf_loop(400000, inner, 0, 0);
	return 0;
}

INLINE int burn(void)
{
	__u64 begin = bpf_ktime_get_ns();

	bpf_loop(cfg_loops, outer, 0, 0);
	state.free_since = bpf_ktime_get_ns();
	state.last_ns = state.free_since - begin;
	state.runs++;
	return 0;
}

/* On a cpu-clock event: interrupts are off. */
SEC("perf_event")
int irqoff(void *ctx)
{
	return burn();
}

/* On a packet socket: in the receiving softirq. */
SEC("socket")
int slow_softirq(void *ctx)
{
	return burn();
}

volatile const __u32 cfg_irq = 0, cfg_times = 0;
volatile const __u64 cfg_gap_ns = 0;

/* When interrupt cfg_irq is about to be served, at most cfg_times and cfg_gap_ns apart: its handler takes that long.
 * One interrupt is served by one CPU at a time, so the counts need no care. */
SEC("raw_tp/irq_handler_entry")
int slow_irq(__u64 *ctx)
{
	if ((__u32)ctx[0] != cfg_irq || state.runs >= cfg_times || bpf_ktime_get_ns() - state.free_since < cfg_gap_ns)
		return 0;
	return burn();
}

volatile const __u32 cfg_tid = 0;

/* On system calls of thread cfg_tid: a long run in the kernel without a switch. */
SEC("raw_tp/sys_enter")
int kernel_run(void *ctx)
{
	if ((__u32)bpf_get_current_pid_tgid() != cfg_tid)
		return 0;
	return burn();
}
