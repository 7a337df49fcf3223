//! What is no hold of a CPU.

use super::*;

/// All of it is cached after the first turn.
const FILE: libc::off_t = 64 << 20;

/// Each call takes some microseconds, nearly all of it in the kernel, and counts neither as a read nor as a fault.
#[test]
fn a_loop_of_short_system_calls_is_no_hold() {
    with_probes("", |kept| {
        if level(kept, "nosched") < 2.0 {
            println!("skipped: no BPF probe for CPUs that do not schedule");
            return;
        }
        let busy = AtomicBool::new(false);
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(FILE as u64).unwrap();
        let calls = thread::scope(|scope| {
            let _busy = Busy::on(1, &busy, scope);
            let looping = scope.spawn(|| {
                name_thread(c"ws-calls");
                bind_to(1);
                // SAFETY: about this thread alone.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, -20) };
                let (end, mut calls) = (Instant::now() + Duration::from_secs(1), 0);
                while Instant::now() < end {
                    for _ in 0..100 {
                        // SAFETY: the descriptor is open.
                        unsafe {
                            libc::posix_fadvise(
                                file.as_raw_fd(),
                                (calls << 20) % FILE,
                                1 << 20,
                                libc::POSIX_FADV_WILLNEED,
                            )
                        };
                        calls += 1;
                    }
                }
                calls
            });
            looping.join().unwrap()
        });
        println!("{calls} calls");
        let after = clock::now().boot_ns;
        kept.wait_for(&s::probes::STREAM, |r| r.boot_ns > after);
        let told = kept.rows(&s::nosched::STREAM);
        assert!(!told.iter().any(|r| r.text("comm") == "ws-calls"), "{told:#?}");
    });
}
