/* The parts of kernel structures that the programs read. Offsets come from the running kernel's BTF; a field that a
 * kernel lacks makes only those programs fail to load that read it. */
#pragma once
#include "bpf.h"

struct rq;

/* Since 6.12 a task that goes to sleep may stay queued for a while. 6.12 counts such tasks, later kernels those that do
 * not sleep. */
struct cfs_rq {
	struct rq *rq;
	__u32 h_nr_delayed;
	__u32 h_nr_queued;
	__u32 h_nr_runnable;
} KERNEL;

struct rq {
	__u32 nr_running;	/* sleepers that are still queued included */
	__u64 clock;
	struct cfs_rq cfs;
} KERNEL;

struct sched_entity {
	struct cfs_rq *cfs_rq;
} KERNEL;

/* Kept for every task with CONFIG_SCHED_INFO. */
struct sched_info {
	__u64 run_delay;	/* time waited so far */
	__u64 last_arrival;	/* when it last began to run */
	__u64 last_queued;	/* when it last began to wait */
} KERNEL;

struct kernfs_node {
	__u64 id;
} KERNEL;

struct cgroup_root {
	__u32 subsys_mask;
} KERNEL;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} KERNEL;

struct cgroup {
	struct cgroup_subsys_state self;
	struct cgroup_subsys_state *subsys[4];
	struct kernfs_node *kn;
	struct cgroup_root *root;
} KERNEL;

struct page_counter {
	struct {
		__s64 counter;
	} usage;	/* pages */
} KERNEL;

/* Begins with its cgroup_subsys_state. */
struct mem_cgroup {
	struct page_counter memory;
} KERNEL;

struct css_set {
	struct cgroup *dfl_cgrp;	/* in the v2 hierarchy */
	struct cgroup_subsys_state *subsys[4];
} KERNEL;

struct task_io_accounting {
	__u64 syscr;	/* calls of read, with CONFIG_TASK_XACCT */
	__u64 syscw;
} KERNEL;

struct cfs_bandwidth {
	__u64 quota;	/* ~0 is none */
	int nr_throttled;
} KERNEL;

struct task_group {
	struct cgroup_subsys_state css;
	struct task_group *parent;
	struct cfs_bandwidth cfs_bandwidth;
} KERNEL;

#define PF_KTHREAD 0x00200000

struct task_struct {
	__u32 flags;
	int prio;
	__u32 policy;
	int pid;
	int tgid;
	int nr_cpus_allowed;
	__u64 utime;
	unsigned long min_flt;
	struct task_io_accounting ioac;
	char comm[16];
	struct sched_info sched_info;
	struct sched_entity se;
	struct task_group *sched_task_group;
	struct css_set *cgroups;
} KERNEL;

struct irqaction {
	const char *name;
} KERNEL;

struct timerqueue_node {
	__s64 expires;
} KERNEL;

struct hrtimer_clock_base {
	int clockid;
} KERNEL;

struct hrtimer {
	struct timerqueue_node node;
	struct hrtimer_clock_base *base;
	__u8 is_soft;
} KERNEL;

struct compact_control {
	int order;
} KERNEL;

enum cgroup_subsys_id { memory_cgrp_id = 4 };
