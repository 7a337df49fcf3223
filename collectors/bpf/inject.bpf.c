/* Bounded faults for tests, never part of the daemon: each program keeps its CPU busy for cfg_loops * ~0.9 ms in the
 * context that it is attached to. */
#include "bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

volatile const __u32 cfg_loops = 0;
/* How often it ran and how long the last time took. */
volatile __u64 runs, last_ns;
static volatile __u64 sink;

static long inner(__u32 i, void *ctx)
{
	sink += i;
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
	last_ns = bpf_ktime_get_ns() - begin;
	runs++;
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

volatile const __u32 cfg_tid = 0;

/* On system calls of thread cfg_tid: a long run in the kernel without a switch. */
SEC("raw_tp/sys_enter")
int kernel_run(void *ctx)
{
	if ((__u32)bpf_get_current_pid_tgid() != cfg_tid)
		return 0;
	return burn();
}
