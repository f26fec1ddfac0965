//! A network namespace of one's own (network_namespaces(7)), for what must not touch the machine's network.

use std::fs::File;
use std::io;

/// Moves the calling thread, and those that it starts from now on, into a fresh network namespace, which goes with its last
/// user. Without CAP_SYS_ADMIN a user namespace is made around it, if the system lets one; for that the process must have
/// one thread.
///
/// # Errors
/// Not permitted here.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let cause = io::Error::last_os_error();
    if cause.raw_os_error() != Some(libc::EPERM) {
        return Err(cause);
    }
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    Err(cause)
}

/// The calling thread's network namespace.
///
/// # Errors
/// No /proc.
pub fn current_network() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_the_calling_thread_moves() {
        let number = || current_network().unwrap().metadata().unwrap().ino();
        let before = number();
        let moved = std::thread::spawn(move || unshare_network().map(|()| number()))
            .join()
            .unwrap();
        // Where it is not permitted there is nothing to see.
        if let Ok(after) = moved {
            assert_ne!(before, after);
        }
        assert_eq!(before, number());
    }
}
