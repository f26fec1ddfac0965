//! Where and when threads run.

use std::io;
use std::mem;

/// Binds the calling thread to the `index`-th of the processors it may run on (counted around).
///
/// # Errors
/// As the system says.
pub fn pin_current_thread(index: usize) -> io::Result<()> {
    // SAFETY: all-zero octets are an empty cpu_set_t.
    let mut allowed: libc::cpu_set_t = unsafe { mem::zeroed() };
    let size = mem::size_of::<libc::cpu_set_t>();
    // SAFETY: `allowed` is valid for writes of `size` octets; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let processors: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the number is below CPU_SETSIZE.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) })
        .collect();
    let Some(cpu) = processors.get(index % processors.len().max(1)) else {
        return Err(io::Error::other("no processor to run on"));
    };
    // SAFETY: all-zero octets are an empty cpu_set_t; `cpu` is below CPU_SETSIZE.
    let one = unsafe {
        let mut one: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(*cpu, &mut one);
        one
    };
    // SAFETY: `one` is valid for reads of `size` octets.
    if unsafe { libc::sched_setaffinity(0, size, &raw const one) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The calling thread runs when no other wants to, or little. It can't be undone, and nothing depends on its success.
pub fn yield_to_all_others() {
    // SAFETY: no pointers; 0 is the calling thread (setpriority(2), "C library/kernel differences").
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_gives_way_and_not_the_others() {
        let nice = || {
            // SAFETY: no pointers.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let before = nice();
        let there = std::thread::spawn(move || {
            yield_to_all_others();
            nice()
        });
        assert_eq!(there.join().unwrap(), 19);
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let cpu = std::thread::spawn(|| {
            pin_current_thread(0).unwrap();
            // SAFETY: no arguments.
            let first = unsafe { libc::sched_getcpu() };
            for _ in 0..100 {
                std::thread::yield_now();
                // SAFETY: no arguments.
                assert_eq!(unsafe { libc::sched_getcpu() }, first);
            }
            first
        });
        assert!(cpu.join().unwrap() >= 0);
    }
}
