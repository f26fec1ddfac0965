//! Binds threads to processors.

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

#[cfg(test)]
mod tests {
    use super::*;

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
