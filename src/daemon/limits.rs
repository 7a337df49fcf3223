//! What the process asks of the system for itself, once at its start.

/// For commands that stay: many open files, little memory.
pub fn prepare() {
    raise_open_files();
    one_arena();
}

/// Raises the limit of open files to what is allowed: collectors keep their files open.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit; failing leaves the limit as it was, which only means fewer kept files.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// One heap for all threads. The C library would give each thread its own, which keeps what the others could use; our
/// threads allocate too little to get in each other's way.
fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers only; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that is not used any more back to the system, after work that needed much for a short time.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number only and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
