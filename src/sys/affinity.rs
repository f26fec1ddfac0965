//! Where and when threads run.

use std::io;
use std::mem;
use std::time::Duration;

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

/// What the calling thread has used of a processor so far.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes. It can't fail: the clock is there since Linux 2.6.12; if it did, `time` stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The calling thread does not take the processor from another when it is woken (SCHED_BATCH), or does so again (SCHED_OTHER); see sched(7).
///
/// # Errors
/// The process may not choose, such as under a system call filter.
pub fn schedule_as_batch(batch: bool) -> io::Result<()> {
    let policy = if batch { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
    // SAFETY: all-zero octets are a valid sched_param.
    let parameters: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: `parameters` is valid for reads; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How a thread is scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduling {
    /// SCHED_OTHER.
    Usual,
    /// SCHED_BATCH.
    Batch,
    /// As somebody has chosen for the process: real time, or idle.
    Chosen,
}

/// How the calling thread is.
#[must_use]
pub fn scheduling() -> Scheduling {
    // SAFETY: no pointers; 0 is the calling thread.
    match unsafe { libc::sched_getscheduler(0) } {
        libc::SCHED_OTHER => Scheduling::Usual,
        libc::SCHED_BATCH => Scheduling::Batch,
        _ => Scheduling::Chosen,
    }
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
    fn what_a_thread_used_is_its_own() {
        let before = thread_cpu_time();
        let there = std::thread::spawn(|| {
            let end = std::time::Instant::now() + Duration::from_millis(30);
            while std::time::Instant::now() < end {
                std::hint::black_box(thread_cpu_time());
            }
            thread_cpu_time()
        });
        let theirs = there.join().unwrap();
        assert!(theirs > Duration::ZERO && thread_cpu_time().saturating_sub(before) < theirs);
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
