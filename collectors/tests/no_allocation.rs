//! Once warm, reading and parsing allocate nothing: every kept reader of this crate's hot paths, over the host's own files.

#![allow(clippy::print_stdout, reason = "says what was skipped")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use whystall_collectors::read::{Buf, KeptFile};
use whystall_collectors::{
    CollectError, Roots, buddyinfo, cpu, interrupts, meminfo, pressure, softirqs, softnet, vmstat, zoneinfo,
};

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of the allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads twice to warm up, then counts over 50 readings. The lines of interrupts may change meanwhile, so that the best of
/// some attempts counts.
fn assert_steady(name: &str, mut read: impl FnMut(&mut KeptFile, &mut Buf) -> Result<(), CollectError>) {
    let (mut file, mut buf) = (KeptFile::lazy(Roots::default().proc(name)), Buf::new());
    for _ in 0..2 {
        if let Err(e) = read(&mut file, &mut buf) {
            println!("skipped: {e}");
            return;
        }
    }
    let asked = (0..5).map(|_| {
        let before = ASKED.get();
        for _ in 0..50 {
            assert!(read(&mut file, &mut buf).is_ok(), "{name}");
        }
        ASKED.get() - before
    });
    assert_eq!(asked.min(), Some(0), "{name}");
}

#[test]
fn warm_readers_allocate_nothing() {
    assert_steady("vmstat", |f, b| f.parse(b, vmstat::parse_vmstat).map(drop));
    assert_steady("meminfo", |f, b| f.parse(b, meminfo::parse_meminfo).map(drop));
    assert_steady("pressure/memory", |f, b| f.parse(b, pressure::parse_pressure).map(drop));
    assert_steady("loadavg", |f, b| f.parse(b, cpu::parse_loadavg).map(drop));
    let mut stat = cpu::Stat::default();
    assert_steady("stat", |f, b| f.parse(b, |bytes| cpu::parse_stat(bytes, &mut stat)));
    let mut zones = Vec::new();
    assert_steady("zoneinfo", |f, b| f.parse(b, |bytes| zoneinfo::parse_zoneinfo(bytes, &mut zones)));
    let mut zones = Vec::new();
    assert_steady("buddyinfo", |f, b| f.parse(b, |bytes| buddyinfo::parse_buddyinfo(bytes, &mut zones)));
    let mut cpus = Vec::new();
    assert_steady("softirqs", |f, b| f.parse(b, |bytes| softirqs::parse_softirqs(bytes, &mut cpus)));
    let mut lines = Vec::new();
    assert_steady("net/softnet_stat", |f, b| f.parse(b, |bytes| softnet::parse_softnet(bytes, &mut lines)));
    let mut table = interrupts::Table::default();
    assert_steady("interrupts", |f, b| f.parse(b, |bytes| interrupts::parse_interrupts(bytes, &mut table)));
}
