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

/// Gives memory that is not used any more back to the system, after work that needed much for a short time: the heap's
/// free pages, and the program's own pages, of which starting and loading rules touch far more than watching does. Those
/// that are needed again come back from the page cache.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the first takes a number only and touches nothing that is in use. The callback is given a null argument,
    // which it ignores.
    unsafe {
        libc::malloc_trim(0);
        libc::dl_iterate_phdr(Some(drop_program_pages), std::ptr::null_mut());
    }
}

/// Drops the present pages of the program itself, which is the first object listed. Only of segments that are never
/// written: what the dynamic linker relocated lies in a writable one.
#[cfg(target_env = "gnu")]
unsafe extern "C" fn drop_program_pages(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr gives a valid description, with `dlpi_phnum` headers at `dlpi_phdr`.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    // SAFETY: sysconf has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        // Whole pages within the segment: a page at its end may be shared with the next one.
        let start = (base + header.p_vaddr) as usize;
        let from = start.next_multiple_of(page);
        let to = (start + header.p_filesz as usize) / page * page;
        if from < to {
            // SAFETY: the range is mapped from the program's file, privately and never written, so that the next access
            // reads the same bytes from the file. Failing leaves the pages where they are.
            unsafe {
                libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED);
            }
        }
    }
    1
}
