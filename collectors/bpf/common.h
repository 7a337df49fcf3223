/* What the probes share: settings, maps, the rate limit, histograms, and how an event gets its common part. */
#pragma once
#include "kernel.h"
#include "wire.h"

/* Settings, fixed when the object is loaded. */
volatile const __u64 runq_threshold_ns = 20000000;
volatile const __u64 nosched_threshold_ns = 50000000;
volatile const __u64 softirq_threshold_ns = 10000000;
volatile const __u64 irq_threshold_ns = 5000000;
volatile const __u64 irqoff_threshold_ns = 10000000;
volatile const __u64 reclaim_threshold_ns = 50000;
volatile const __u64 lock_threshold_ns = 10000000;
volatile const __u64 runq_floor_ns = 16000;	/* shorter waits are not even counted */
volatile const __u64 long_run_ns = 1000000;	/* runs that are remembered as possible culprits */
volatile const __u32 cpu_cgroup_v1 = 0;		/* the cpu controller is in a v1 hierarchy */
volatile const __u32 limit_many = 1000;		/* events a second, CPU and kind: reclaim and cgroup lives */
volatile const __u32 limit_few = 50;		/* ... all other kinds */

volatile struct ws_shared shared;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ws_cpu);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, struct ws_hist_key);
	__type(value, struct ws_hist);
} hists SEC(".maps");

static const struct ws_hist empty_hist;

INLINE struct ws_cpu *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpus, &zero);
}

INLINE __u32 log2_u32(__u32 v)
{
	__u32 r, s;

	r = (v > 0xffff) << 4; v >>= r;
	s = (v > 0xff) << 3; v >>= s; r |= s;
	s = (v > 0xf) << 2; v >>= s; r |= s;
	s = (v > 0x3) << 1; v >>= s; r |= s;
	return r | (v >> 1);
}

INLINE __u32 slot_of(__u64 ns)
{
	__u64 us = ns / 1000;
	__u32 slot;

	if (!us)
		return 0;
	if (us >> 32)
		return WS_SLOTS - 1;
	slot = log2_u32(us) + 1;
	return slot < WS_SLOTS ? slot : WS_SLOTS - 1;
}

/* To a histogram of this CPU alone. */
INLINE void hist_add(struct ws_hist *h, __u64 ns)
{
	__u32 slot = slot_of(ns);

	h->count++;
	h->sum_ns += ns;
	if (ns > h->max_ns)
		h->max_ns = ns;
	if (slot < WS_SLOTS)
		h->slots[slot]++;
}

/* To the histogram of a cgroup, which other CPUs write as well. */
INLINE void hist_add_cgroup(__u64 cgroup, __u32 kind, __u64 ns)
{
	struct ws_hist_key key = { .cgroup = cgroup, .kind = kind };
	struct ws_hist *h = bpf_map_lookup_elem(&hists, &key);
	__u32 slot = slot_of(ns);

	if (!h) {
		bpf_map_update_elem(&hists, &key, &empty_hist, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&hists, &key);
		if (!h) {
			__sync_fetch_and_add(&shared.hists_full, 1);
			return;
		}
	}
	__sync_fetch_and_add(&h->count, 1);
	__sync_fetch_and_add(&h->sum_ns, ns);
	if (ns > h->max_ns)
		h->max_ns = ns;
	if (slot < WS_SLOTS)
		__sync_fetch_and_add(&h->slots[slot], 1);
}

/* The id of the task's cgroup in the hierarchy of the cpu controller. */
INLINE __u64 cpu_cgroup_of(struct task_struct *t)
{
	struct cgroup *c;

	if (!cpu_cgroup_v1)
		return t->cgroups->dfl_cgrp->kn->id;
	c = t->sched_task_group->css.cgroup;
	return c ? c->kn->id : 1; /* an autogroup has none: it is in the root */
}

/* The id of the task's memory cgroup, v1 or v2. */
INLINE __u64 mem_cgroup_of(struct task_struct *t)
{
	__u64 index = ENUM_VALUE(enum cgroup_subsys_id, memory_cgrp_id), id = 0;
	struct css_set *set = t->cgroups;
	struct cgroup_subsys_state *css = 0;
	struct cgroup *cgroup = 0;
	struct kernfs_node *kn = 0;

	bpf_probe_read_kernel(&css, sizeof(css),
			      (char *)__builtin_preserve_access_index(&set->subsys[0]) + index * sizeof(css));
	READ(cgroup, css->cgroup);
	READ(kn, cgroup->kn);
	READ(id, kn->id);
	return id;
}

/* The rate limit of a kind; what is four times its threshold has one of its own, so that the many cannot hide the worst. */
INLINE struct ws_rate *rate_of(struct ws_cpu *cpu, __u32 kind, bool worst)
{
	__u32 i = kind & (WS_KINDS - 1);

	return worst ? &cpu->rate[WS_KINDS + i] : &cpu->rate[i];
}

/* Room for an event of `size` bytes, or nothing if the limit or the ring buffer is exhausted; counted either way. */
INLINE void *reserve(struct ws_cpu *cpu, __u32 kind, bool worst, __u32 limit, __u64 size)
{
	struct ws_rate *rate = rate_of(cpu, kind, worst);
	__u64 now = bpf_ktime_get_ns();
	void *event;

	if (now - rate->window_ns > 1000000000ULL) {
		rate->window_ns = now;
		rate->sent = 0;
	}
	if (rate->sent >= limit) {
		rate->suppressed++;
		return 0;
	}
	event = bpf_ringbuf_reserve(&events, size, 0);
	if (!event) {
		rate->lost++;
		return 0;
	}
	rate->sent++;
	return event;
}

/* The common part. `t` is the task that the event is about. */
INLINE void fill_head(struct ws_head *h, __u32 kind, __u64 dur_ns, __u64 aux, struct task_struct *t)
{
	h->kind = kind;
	h->cpu = bpf_get_smp_processor_id();
	h->boot_ns = bpf_ktime_get_boot_ns();
	h->dur_ns = dur_ns;
	h->aux = aux;
	h->cpu_cgroup = cpu_cgroup_of(t);
	h->mem_cgroup = 0;
	h->pid = t->pid;
	h->tgid = t->tgid;
	h->prio = t->prio;
	h->flags = t->flags & PF_KTHREAD ? WS_KTHREAD : 0;
	h->policy = t->policy;
	bpf_probe_read_kernel(h->comm, sizeof(h->comm), (void *)__builtin_preserve_access_index(&t->comm));
}

/* Sends an event with the current task and kernel stack. */
NOINLINE int send_stack(void *ctx, __u32 kind, __u64 dur_ns, __u64 aux, bool worst)
{
	struct ws_cpu *cpu = this_cpu();
	struct ws_stack *e;

	if (!cpu)
		return 0;
	e = reserve(cpu, kind, worst, limit_few, sizeof(*e));
	if (!e)
		return 0;
	fill_head(&e->head, kind, dur_ns, aux, bpf_get_current_task_btf());
	e->stack_len = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	bpf_ringbuf_submit(e, 0);
	return 0;
}
